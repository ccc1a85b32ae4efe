"""Where metrics come from, besides what the gateways tell the service."""
