import sys
from pathlib import Path

# A clone brings its own package along; beside a wheel's workflow there is none to add.
clone = Path(str(workflow.current_basedir)).parent.parent
if (clone / "laion_fmri" / "__init__.py").exists():
    sys.path.insert(0, str(clone))

from laion_fmri.run.pipeline_modules import read_allowed_rules
from laion_fmri.run.rules import TRANSFER, load_rules
