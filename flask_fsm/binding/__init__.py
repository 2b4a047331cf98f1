"""A machine and the views of an app become one, or every fault is named at once."""
