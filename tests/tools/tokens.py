"""Keys and tokens as another program makes them: PyJWT.

tokens.py keys FOLDER             makes key pairs, NAME.pem and NAME.pub.pem, and says their JSON Web Keys
tokens.py sign FOLDER REQUESTS    says a token for each of the requests, a JSON list of
                                  {"algorithm", "key" or "secret" or "public_as_secret", "header", "claims"}
"""

import base64
import hashlib
import hmac
import json
import pathlib
import sys

import jwt
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa


def make_keys(folder):
    keys = {
        "rsa": (jwt.algorithms.RSAAlgorithm, rsa.generate_private_key(65537, 2048)),
        "rsa-next": (jwt.algorithms.RSAAlgorithm, rsa.generate_private_key(65537, 2048)),
        "ec": (jwt.algorithms.ECAlgorithm, ec.generate_private_key(ec.SECP256R1())),
        "ed": (jwt.algorithms.OKPAlgorithm, ed25519.Ed25519PrivateKey.generate()),
    }
    described = {}
    for name, (algorithm, key) in keys.items():
        private = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        public = key.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        (folder / f"{name}.pem").write_bytes(private)
        (folder / f"{name}.pub.pem").write_bytes(public)
        described[name] = {"kid": name, "use": "sig"} | algorithm.to_jwk(key.public_key(), as_dict=True)
    return described


def part(value):
    return base64.urlsafe_b64encode(value).rstrip(b"=")


def sign(folder, request):
    algorithm, claims, header = request["algorithm"], request["claims"], request.get("header", {})
    if "public_as_secret" in request:
        # PyJWT refuses to do this; an attacker does not.
        secret = (folder / f"{request['public_as_secret']}.pub.pem").read_bytes()
        head = json.dumps({"alg": algorithm, "typ": "JWT"} | header).encode()
        message = part(head) + b"." + part(json.dumps(claims).encode())
        return (message + b"." + part(hmac.new(secret, message, hashlib.sha256).digest())).decode()
    key = request.get("secret")
    if "key" in request:
        key = (folder / f"{request['key']}.pem").read_text()
    return jwt.encode(claims, key, algorithm=algorithm, headers=header)


def main():
    command, folder = sys.argv[1], pathlib.Path(sys.argv[2])
    if command == "keys":
        answer = make_keys(folder)
    else:
        answer = [sign(folder, request) for request in json.loads(sys.argv[3])]
    print(json.dumps(answer), flush=True)


main()
