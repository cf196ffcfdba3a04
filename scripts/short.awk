# Shows a log on a terminal, a record a line: time, service, level, what happened, request id.

BEGIN {
  split("TRACE DEBUG INFO WARN ERROR FATAL", levels, " ")
  # What a person at the terminal knows, or finds in the log.
  split("v name hostname pid level time target file line msg action request_id trace_id span_id " \
    "trace_flags remote_address peer first_request_line response_status response_size grpc_code " \
    "request_time_frac", left_out, " ")
  for (i in left_out) is_left_out[left_out[i]] = 1
}

{
  count = read($0)
  if (count == 0) print
  else print short(count)
  fflush()
}

function short(count,    line, i, key) {
  line = sprintf("%.12s %-8s %-5s %s", substr(fields["time"], 12), fields["name"], \
    levels[int(fields["level"] / 10)], subject())
  if ("first_request_line" in fields) line = line "  " response() ", " took()
  for (i = 1; i <= count; i++) {
    key = keys[i]
    if (!(key in is_left_out) && !(key == "status" && fields[key] == "success"))
      line = line "  " key "=" fields[key]
  }
  return fields["request_id"] == "" ? line : line "  " fields["request_id"]
}
