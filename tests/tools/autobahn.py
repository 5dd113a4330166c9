"""Plays the cases of the Autobahn test suite against a server that echoes: autobahn.py URL INCLUDE EXCLUDE

INCLUDE and EXCLUDE are cases or patterns such as 9.*, with commas between. The cases are Autobahn's own files; the program that plays
them is kosoku's, as Autobahn's own needs Python 2. Prints a line of JSON for each case: how it went, and how the connection closed.
"""

import asyncio
import json
import os
import sys

from kosoku import FailureError, run_fuzzingclient

# At once. Some cases wait a second for nothing to come.
CONCURRENCY = 8


async def main():
    url, include, exclude = sys.argv[1:4]
    try:
        results = await run_fuzzingclient(url, include.split(","), exclude.split(","), concurrency=CONCURRENCY)
    except FailureError as failure:
        results = failure.results
    for result in results:
        print(
            json.dumps(
                {
                    "case": result.case_id,
                    "behavior": result.behavior.value,
                    "close": result.behavior_close.value,
                    "code": result.remote_close_code,
                    "milliseconds": result.duration,
                    "told": f"{result.description} Expected: {result.expectation} {result.result} {result.result_close}",
                }
            )
        )


asyncio.run(main())
# Its threads may still be at work, and abort the process when the interpreter takes itself apart beneath them.
sys.stdout.flush()
os._exit(0)
