"""Whether a document is good OpenAPI, as its published validator sees it: python validate_openapi.py FILE"""

import json
import pathlib
import sys

from openapi_spec_validator import OpenAPIV31SpecValidator


def main():
    document = json.loads(pathlib.Path(sys.argv[1]).read_text())
    problems = list(OpenAPIV31SpecValidator(document).iter_errors())
    for problem in problems:
        print(f"error: {'.'.join(map(str, problem.absolute_path))}: {problem.message}")
    print(f"{sum(len(path) for path in document['paths'].values())} operations")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
