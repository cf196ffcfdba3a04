//! Responses that fail by their status, of gRPC or of HTTP.

use tests::frame::END_STREAM;

use super::super::{
    draft::{Draft, HEAD, LONGEST_FRAME},
    manner::Manner,
};

const PUSHBACK: &str = "grpc-retry-pushback-ms";

/// The codes of failures that are worth another attempt.
const FAILURES: [u32; 4] = [14, 13, 2, 8];

pub(super) fn write(manner: Manner, it: &mut Draft<'_>) -> bool {
    write_broken(manner, it) || write_failures(manner, it)
}

fn write_broken(manner: Manner, it: &mut Draft<'_>) -> bool {
    match manner {
        Manner::NoTrailers => {
            it.begin();
            it.head();
            let reply = it.reply();
            it.last_data(reply);
        }
        Manner::EndOnHead => {
            it.begin();
            it.fields(END_STREAM, &HEAD);
        }
        Manner::Html => html(it),
        Manner::HttpStatus => {
            it.begin();
            let status = http_status(it);
            if it.random.bool() {
                it.fields(END_STREAM, &[(":status", status)]);
            } else {
                it.fields(0, &[(":status", status), ("retry-after", "1")]);
                it.pause_maybe();
                it.last_data("no gRPC here");
            }
        }
        Manner::HttpStatusOfGrpc => {
            it.begin();
            let status = http_status(it);
            it.fields(0, &[(":status", status), HEAD[1]]);
            let reply = it.reply();
            it.last_data(reply);
        }
        Manner::NoHttpStatus => {
            it.begin();
            let status = it.choose(&["", "0", "20", "2000", "abc", "-200"]);
            let fields = [(":status", status), HEAD[1], ("grpc-status", "0")];
            let skipped = it.random.usize(..2);
            it.fields(END_STREAM, &fields[skipped..]);
        }
        Manner::StatusMissing => {
            it.begin();
            it.head();
            it.message();
            let message = [("grpc-message", "none"), ("server", "a fake")];
            let count = it.random.usize(1..=2);
            it.fields(END_STREAM, &message[..count]);
        }
        Manner::StatusNoNumber => {
            let status = it.choose(&["OK", "", "-1", "0x0", "00", "0,0", " 0", "1e1"]);
            after_message(it, &[("grpc-status", status)]);
        }
        Manner::StatusUnknownNumber => {
            let status = it.choose(&["17", "99", "256", "65536", "18446744073709551616"]);
            after_message(it, &[("grpc-status", status)]);
        }
        Manner::StatusTwice => {
            it.begin();
            it.head();
            it.messages(LONGEST_FRAME);
            let code = it.order.code.to_string();
            it.fields(END_STREAM, &[("grpc-status", &code), ("grpc-status", "13")]);
        }
        Manner::LongTrailers => {
            let long = "x".repeat(12 * 1_024);
            let code = it.order.code.to_string();
            let mut fields = [("grpc-status", code.as_str()), ("a", &long), ("b", &long)];
            fields.rotate_left(it.random.usize(..3));
            it.begin();
            it.head();
            it.messages(LONGEST_FRAME);
            super::heads::long(it, END_STREAM, &fields);
        }
        _ => return false,
    }
    true
}

fn write_failures(manner: Manner, it: &mut Draft<'_>) -> bool {
    match manner {
        Manner::OddMessage => {
            let long = "%E2%82%AC".repeat(900);
            let text = it.choose(&["%", "%f", "%ff%fe", "%00", "%0d%0a", "\u{fc}", "", &long]);
            it.begin();
            it.end(&[("grpc-status", "13"), ("grpc-message", text)]);
        }
        Manner::InvalidDetails => {
            let details = it.choose(&["=", "no base64!", "%", "YQ=", "\u{fc}"]);
            it.begin();
            it.end(&[("grpc-status", "13"), ("grpc-status-details-bin", details)]);
        }
        Manner::Unavailable => fails(it, 14, None),
        Manner::Internal => fails(it, 13, None),
        Manner::Unknown => fails(it, 2, None),
        Manner::ResourceExhausted => fails(it, 8, None),
        Manner::OtherCode => {
            let code = it.choose(&[1, 3, 4, 5, 6, 7, 9, 10, 11, 12, 15, 16]);
            fails(it, code, None);
        }
        Manner::Pushback => {
            let millis = it.random.u32(1..=1_000).to_string();
            pushes_back(it, &millis);
        }
        Manner::PushbackZero => pushes_back(it, "0"),
        Manner::PushbackNegative => {
            let millis = it.choose(&["-1", "-9223372036854775808"]);
            pushes_back(it, millis);
        }
        Manner::PushbackHuge => {
            let millis = it.choose(&["60000", "2147483647", "18446744073709551615", "1e99"]);
            pushes_back(it, millis);
        }
        Manner::PushbackGarbage => {
            let millis = it.choose(&["", "soon", "1.5", "+1", "1 s", "100,200"]);
            pushes_back(it, millis);
        }
        _ => return false,
    }
    true
}

fn http_status(it: &mut Draft<'_>) -> &'static str {
    it.choose(&[
        "201", "204", "301", "400", "401", "403", "404", "408", "413", "429", "431", "500", "502",
        "503", "504", "599",
    ])
}

/// A page, as of a proxy.
fn html(it: &mut Draft<'_>) {
    it.begin();
    let status = it.choose(&["200", "404", "502", "503"]);
    it.fields(0, &[(":status", status), ("content-type", "text/html")]);
    it.pause_maybe();
    it.last_data("<html><h1>Bad Gateway</h1></html>");
}

/// A message, and these trailers.
fn after_message(it: &mut Draft<'_>, trailers: &[(&str, &str)]) {
    it.begin();
    it.head();
    it.message();
    it.pause_maybe();
    it.fields(END_STREAM, trailers);
}

fn pushes_back(it: &mut Draft<'_>, millis: &str) {
    let code = it.choose(&FAILURES);
    fails(it, code, Some(millis));
}

/// A failure: in the head, after the head, or after a message.
fn fails(it: &mut Draft<'_>, code: u32, pushback: Option<&str>) {
    let code = code.to_string();
    let mut fields = vec![("grpc-status", code.as_str()), ("grpc-message", "a%20fake")];
    fields.extend(pushback.map(|millis| (PUSHBACK, millis)));
    if it.random.u8(..3) == 0 {
        return after_message(it, &fields);
    }
    if it.random.bool() {
        it.begin();
    }
    it.end(&fields);
}
