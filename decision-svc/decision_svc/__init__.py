"""The decision service: answers Decide from memory, keeps policies in a store, speaks gRPC."""
