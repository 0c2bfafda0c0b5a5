"""Bytes on disk become batches on the device. Knows no model."""
