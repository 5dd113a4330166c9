"""Fernet as Python's `cryptography` does it: fernet.py generate | encrypt KEY TEXT | decrypt KEY TOKEN"""

import sys

from cryptography.fernet import Fernet

match sys.argv[1:]:
    case ["generate"]:
        print(Fernet.generate_key().decode())
    case ["encrypt", key, text]:
        print(Fernet(key).encrypt(text.encode()).decode())
    case ["decrypt", key, token]:
        print(Fernet(key).decrypt(token.encode()).decode())
    case _:
        sys.exit(__doc__)
