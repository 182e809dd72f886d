"""`python impostor.py ...` is `silofl ...`; started again, it adds what `impostor.json` has for this time.

`take A B` there, instead of arguments, copies a file over another.
"""

import json
import os
import shutil
import sys
from pathlib import Path

from silofl.__main__ import main
from silofl.launcher.watchdog import RESPAWNED

if __name__ == "__main__":
    script = Path("impostor.json")
    if RESPAWNED in os.environ and script.exists():
        now, *later = json.loads(script.read_text())
        script.write_text(json.dumps(later))
        if now[:1] == ["take"]:
            shutil.copyfile(*now[1:])
        else:
            sys.argv += now
    main()
