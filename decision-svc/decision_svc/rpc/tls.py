"""TLS for gRPC servers, with certificates that may change while they serve."""

from __future__ import annotations

from typing import Any

import grpc

from decision_svc.access.tls import Pems, TlsFiles


def credentials(files: TlsFiles) -> grpc.ServerCredentials:
    """Of every connection that begins, what the files said last when they were right."""
    shown = [files.pems]

    # The stubs do not know that None says: as before.
    def fetch() -> Any:
        newest = files.pems
        if newest is shown[0]:
            return None
        shown[0] = newest
        return _configuration(newest)

    return grpc.dynamic_ssl_server_credentials(
        _configuration(shown[0]), fetch, require_client_authentication=bool(shown[0].client_ca)
    )


def _configuration(pems: Pems) -> grpc.ServerCertificateConfiguration:
    return grpc.ssl_server_certificate_configuration(
        [(pems.key, pems.certificate)], root_certificates=pems.client_ca or None
    )
