"""The admin API over gRPC: the only place of the controller that knows protobuf."""
