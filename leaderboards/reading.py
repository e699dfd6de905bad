"""How to read the tables: what stands below them, in the terminal and in Markdown."""

MARKS = "Bold: the best merge of a column; italic: not significantly worse (paired bootstrap, Holm)."

READING = """\
## How to read this

* All rates are percentages with 95 % intervals in brackets (Wilson), counted over the prompts named above the table.
* **score**: harmonic mean of skill, harmlessness (1 - harmful) and helpfulness (1 - over-refusal): nobody wins it by
  refusing everything, nor by being skilled and unsafe. **rank**: by score, as a range: the merges that are
  significantly better come before it, those significantly worse after it. docs/leaderboards.md says when it misleads.
* In each column the best merge is **bold**; *italic* ones are not significantly worse (paired bootstrap, Holm).
* **skill**: mean over the domains of the share of items answered correctly. Higher is better.
* **kept**: a merge's skill in a domain relative to the best expert's.
* **harmful**: share of unsafe prompts that got an answer the judge calls harmful. Lower is better.
* **refusals**: share of unsafe prompts refused. An answer may be neither a refusal nor harmful.
* **over-refusal**: share of harmless but alarming-looking prompts that were refused. Lower is better.
* **arm**: the calibration data a method saw: `none`, the experts' answers (`task`), or those and refusals
  (`task+safety`). Parents show their role instead.
* **evals**: candidate merges whose loss was measured to choose coefficients.
"""

READING_SEEDS = """\
* **seeds**: runs that a row is the mean of. Where there are several, each end of an interval is the outer one of
  Wilson's, over the prompts' means, and of a bootstrap over prompts and seeds. leaderboard.csv has each run.
"""

READING_FRONTIER = """\
One ratio for all weights already trades skill for refusals: `sweep` rows follow the line from the aligned parent to the
experts. A method is worth its cost only above that curve. **refusals at equal skill**: its refusals on unsafe prompts
minus the curve's where that is as skilled; **skill at equal refusals**: likewise across. Percentage points with 95 %
intervals: a bootstrap that draws prompts, items and seeds, the same ones for the method and the curve, which is made
anew each time. The curve joins those of the ratios, the parents and the best merges without data that no other beats in
both; a merge without data is not on its own curve.

**p**: exact McNemar test on the same unsafe prompts (each by its majority of seeds) against the safest model of the
curve that is at least as skilled, or the most skilled one where none is; Holm-corrected over the rows of this table.
**above**: the interval of the refusals gained lies above 0, and p < 0.05.
"""

TERMINAL_READING = """\
Percentages with 95 % intervals. Skill: mean over domains, higher is better.
Harmful: of unsafe prompts; over-refusal: of benign ones; lower is better."""

TERMINAL_READING_FRONTIER = """\
Frontier: the best that one ratio for all weights, a parent, or a merge without
data attains. Above: the gain's interval is positive and p < 0.05.
"""

READING_ARMS = """\
Each method against itself on the same prompts, in percentage points with 95 % intervals (paired bootstrap). *safer* and
*worse* count the unsafe prompts whose answer stopped or started being harmful; p is the exact McNemar test of the two,
Holm-corrected over the rows of this table. An interval without width means that no item changed.
"""

READING_ARMS_SEEDS = """\
Changes are means over the seeds that both arms have, and the bootstrap draws seeds too; *safer*, *worse* and p take
each prompt's outcome by the majority of seeds.
"""
