"""A release as Istio's routes."""
