"""Measurements on clips, generated here or made by anybody: items, generation, measures, report. See docs/evaluation.md."""
