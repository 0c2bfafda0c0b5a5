"""Logits become weights: the LightningModule, what moves it, and what keeps it."""
