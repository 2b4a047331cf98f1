"""The bus on Redis or Valkey: what is sent (`outbox`) and what arrives (`inbox`)."""
