# Prints the records of one request as a table. A line that is not a record follows as it is.

{
  if (read($0) == 0) { others = others $0 "\n"; next }
  at = seconds(fields["time"])
  if (rows++ == 0) first = at
  cell[rows, 1] = sprintf("+%.3f ms", (at - first) * 1000)
  cell[rows, 2] = fields["name"]
  cell[rows, 3] = cut(subject())
  cell[rows, 4] = "first_request_line" in fields ? took() : "-"
  cell[rows, 5] = cut(outcome())
}

END {
  if (rows > 0) {
    split("offset service what took outcome", titles, " ")
    for (i = 1; i <= 5; i++) cell[0, i] = titles[i]
    for (row = 0; row <= rows; row++)
      for (i = 1; i < 5; i++)
        if (length(cell[row, i]) > width[i]) width[i] = length(cell[row, i])
    for (row = 0; row <= rows; row++) {
      for (i = 1; i < 5; i++) printf "%-" width[i] "s  ", cell[row, i]
      print cell[row, 5]
    }
  }
  printf "%s", others
}

function outcome(    text) {
  text = "response_status" in fields ? response() : fields["status"]
  if (fields["error"] != "") text = text ": " fields["error"]
  if (fields["reason"] != "") text = text ": " fields["reason"]
  return text
}

# A client chooses the length of its request line.
function cut(text) {
  return length(text) > 72 ? substr(text, 1, 71) "~" : text
}

# The time of a record, 2026-11-21T09:47:17.525896900Z, in seconds since some day.
function seconds(time,    year, month, day) {
  year = substr(time, 1, 4) + 0; month = substr(time, 6, 2) + 0; day = substr(time, 9, 2) + 0
  # Days, in a year that begins in March, so that a leap day is its last.
  if (month < 3) { year -= 1; month += 12 }
  day += 365 * (year - 2000) + int(year / 4) - int(year / 100) + int(year / 400) + \
    int((153 * month - 457) / 5)
  return 86400 * day + 3600 * substr(time, 12, 2) + 60 * substr(time, 15, 2) + substr(time, 18)
}
