"""A workload on the `spiffe` package: fetch, validate and watch through a rotation.

Takes SPIFFE_ENDPOINT_SOCKET and STEEPLE_EXPECT_ID from the environment; exits 0 when everything was
as it must be, and says what was not otherwise.
"""

import os
import sys
import threading

from spiffe import JwtSvid, SpiffeId, WorkloadApiClient, X509Source

ROTATION_SECONDS = 80


def check(condition: bool, text: str) -> None:
    if not condition:
        sys.exit(text)


def tokens(client: WorkloadApiClient, expect: str) -> None:
    svid = client.fetch_jwt_svid(audience={"interop"}, timeout=10)
    check(str(svid.spiffe_id) == expect, f"the token names {svid.spiffe_id}")
    bundle = client.fetch_jwt_bundles(timeout=10).get_bundle_for_trust_domain(
        SpiffeId(expect).trust_domain
    )
    JwtSvid.parse_and_validate(svid.token, bundle, {"interop"})
    client.validate_jwt_svid(svid.token, "interop", timeout=10)
    try:
        client.validate_jwt_svid(svid.token, "other", timeout=10)
    except Exception:  # whatever the package calls a refusal
        return
    sys.exit("a token for another audience was accepted")


def rotation(expect: str) -> None:
    changed = threading.Event()
    with X509Source(timeout_in_seconds=20) as source:
        check(str(source.svid.spiffe_id) == expect, f"got {source.svid.spiffe_id}")
        first = source.svid.leaf.serial_number

        def look() -> None:
            if source.svid.leaf.serial_number != first:
                changed.set()

        source.subscribe_for_updates(look)
        look()
        check(changed.wait(ROTATION_SECONDS), "no rotation was seen")


def main() -> None:
    expect = os.environ["STEEPLE_EXPECT_ID"]
    with WorkloadApiClient() as client:
        tokens(client, expect)
    rotation(expect)
    print("py-spiffe: ok")


main()
