"""Monthly mean sunspot numbers 1995 to 1999, of the National Geophysical Data Center.

In the public domain; as in `sunspots_monthly.dat` of statsmodels. From the quietest months of the
Sun into a rise.
"""

_YEARS = {
    1995: (24.2, 29.9, 31.1, 14.0, 14.5, 15.6, 14.5, 14.3, 11.8, 21.1, 9.0, 10.0),
    1996: (11.5, 4.4, 9.2, 4.8, 5.5, 11.8, 8.2, 14.4, 1.6, 0.9, 17.9, 13.3),
    1997: (5.7, 7.6, 8.7, 15.5, 18.5, 12.7, 10.4, 24.4, 51.3, 23.8, 39.0, 41.2),
    1998: (31.9, 40.3, 54.8, 53.4, 56.3, 70.7, 66.6, 92.2, 92.9, 55.5, 74.0, 81.9),
    1999: (62.0, 66.3, 68.8, 63.7, 106.4, 137.7, 113.5, 93.7, 71.5, 116.7, 133.2, 84.6),
}

MONTHS = [
    (f"{year}-{month:02}", number)
    for year, numbers in _YEARS.items()
    for month, number in enumerate(numbers, start=1)
]
"""Month and sunspot number."""

SHOWN = 12
"""The last year is shown; the years before are the memory."""
