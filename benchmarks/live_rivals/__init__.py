"""What the live part is measured against. These modules run without flask_fsm."""
