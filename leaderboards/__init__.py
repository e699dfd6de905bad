"""Tables, plots and a static site, made from records alone.

    records -> frame                    -> leaderboard.csv                     one row a record
            -> pooled, against_frontier -> leaderboard.md, the terminal, plots one row a method x arm, seeds pooled
            -> leaderboards.site                -> site/index.html and its pages

    from leaderboards.build import build_leaderboard
    table = build_leaderboard(Path("results"))       # the DataFrame behind every output

Rows are compared only within a suite's fingerprint. Names are made inert. No model answer reaches
any output but a site that is asked to show them.
"""
