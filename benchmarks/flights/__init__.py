"""Flights from New York in 2013, day by day: predict which ones arrive late, then learn from the day.

A stream of real data that changes gradually: weather, season, holidays. Whether networks lose plasticity on it is not
known beforehand, and the plasticity check at the end of each run says it.
"""
