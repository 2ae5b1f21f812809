"""One file per family. Each has FAMILY, ASKS {lang: {sub: [templates]}} and draft(rng, difficulty, lang) -> Draft."""
from . import (action, arith, convert, datetimes, lists, logic, machine, readout, recall, sequence, severity, shopping, strings,
               table, wordproblem)

MODULES = [action, arith, convert, datetimes, lists, logic, machine, readout, recall, sequence, severity, shopping, strings,
           table, wordproblem]
BY_NAME = {module.FAMILY: module for module in MODULES}
