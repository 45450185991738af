"""Measurements, each a command of the Makefile. They print ratios; nothing here is a test."""
