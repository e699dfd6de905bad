"""Tables and plots, made from records alone.

    records -> frame                    -> leaderboard.csv                     one row a record
            -> pooled, against_frontier -> leaderboard.md, the terminal, plots one row a method x arm, seeds pooled

    from leaderboards.build import build_leaderboard
    table = build_leaderboard(Path("results"))       # the DataFrame behind every output

Rows are compared only within a suite's fingerprint. No model answer reaches any output, and names are made inert.
"""
