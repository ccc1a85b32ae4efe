"""The only files that know protobuf and gRPC."""
