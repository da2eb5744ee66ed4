"""Let `python servers/epoll_server.py` run from a plain checkout.

A script's own folder comes first on Python's path, so there `import servers` finds this file;
its __path__ then stands for the package.
"""

from pathlib import Path

__path__ = [str(Path(__file__).parent)]
