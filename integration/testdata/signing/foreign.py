"""What a team that signs with in-toto's own library does: DSSE by
securesystemslib, the private key in openssl's hands.

sign PAYLOAD KIND:KEY.pem...  writes an envelope to standard output
verify PUBLIC.hex KEYID       verifies the envelope on standard input (Ed25519)
"""

import json
import subprocess
import sys
import tempfile

from securesystemslib.dsse import Envelope
from securesystemslib.signer import Signature, Signer, SSlibKey

PAYLOAD_TYPE = "application/vnd.in-toto+json"


class OpenSSL(Signer):
    """Signs with a key file, by the kind of key: ed25519 or ecdsa."""

    def __init__(self, kind, key):
        self.kind, self.key = kind, key

    def sign(self, payload):
        with tempfile.NamedTemporaryFile() as f:
            f.write(payload)
            f.flush()
            command = {
                "ed25519": ["openssl", "pkeyutl", "-sign", "-rawin", "-inkey", self.key, "-in", f.name],
                "ecdsa": ["openssl", "dgst", "-sha256", "-sign", self.key, f.name],
            }[self.kind]
            signature = subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout
        return Signature("key of " + self.kind, signature.hex())

    @classmethod
    def from_priv_key_uri(cls, priv_key_uri, public_key, secrets_handler=None):
        raise NotImplementedError

    @property
    def public_key(self):
        raise NotImplementedError


def sign(payload, *keys):
    with open(payload, "rb") as f:
        envelope = Envelope(f.read(), PAYLOAD_TYPE, {})
    for key in keys:
        envelope.sign(OpenSSL(*key.split(":", 1)))
    json.dump(envelope.to_dict(), sys.stdout, indent=1, sort_keys=True)


def verify(public, keyid):
    envelope = Envelope.from_dict(json.load(sys.stdin))
    envelope.verify([SSlibKey(keyid, "ed25519", "ed25519", {"public": public})], 1)
    print(envelope.payload_type)


if __name__ == "__main__":
    {"sign": sign, "verify": verify}[sys.argv[1]](*sys.argv[2:])
