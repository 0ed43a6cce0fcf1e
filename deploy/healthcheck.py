"""Is the service of this container ready? Ends with an error if not. SERVICE and <SERVICE>_OPS_PORT say which."""

import os
import urllib.request

port = int(os.environ[f"{os.environ['SERVICE'].upper()}_OPS_PORT"])
urllib.request.urlopen(f"http://127.0.0.1:{port}/health/ready", timeout=4).close()
