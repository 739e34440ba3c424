"""The comparison of many trainings: the grid, its plan and cost, the engines that run it, the table, the verdict rule.

Import `sweep_freeze` from `sweep`, the table from `table`, the plan from `plan`, the rule from `verdict`.
"""
