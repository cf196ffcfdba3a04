//! [`blocks`] and [`inline`]: the Markdown of descriptions as HTML: paragraphs, lists, code, links and
//! emphasis, which doc comments and the comments of `.proto` files use. All text is escaped, and a
//! link leads to `http`, `https` or a path. A whole parser would let HTML through.

/// The characters that may begin something else than text.
const SPECIAL: [char; 6] = ['`', '*', '_', '[', '<', '\\'];

enum Block {
    Paragraph(String),
    Heading(String),
    List {
        is_ordered: bool,
        items: Vec<String>,
    },
    Code(String),
}

/// A text with paragraphs, lists and blocks of code.
pub(super) fn blocks(text: &str) -> String {
    let mut html = String::new();
    for block in parse(text) {
        match block {
            Block::Paragraph(text) => element("p", &inline(&text), &mut html),
            Block::Heading(text) => {
                element(
                    "p",
                    &format!("<strong>{}</strong>", inline(&text)),
                    &mut html,
                );
            }
            Block::List { is_ordered, items } => {
                let mut list = String::new();
                for item in items {
                    element("li", &inline(&item), &mut list);
                }
                element(if is_ordered { "ol" } else { "ul" }, &list, &mut html);
            }
            Block::Code(code) => {
                html.push_str("<pre tabindex=\"0\"><code>");
                escape(&code, &mut html);
                html.push_str("</code></pre>");
            }
        }
    }
    html
}

fn element(name: &str, content: &str, html: &mut String) {
    html.extend(["<", name, ">", content, "</", name, ">"]);
}

fn parse(text: &str) -> Vec<Block> {
    const FENCE: &str = "```";
    let mut blocks = Vec::new();
    let (mut is_code, mut is_open) = (false, false);
    for line in text.lines() {
        let trimmed = line.trim();
        if trimmed.starts_with(FENCE) {
            if !is_code {
                blocks.push(Block::Code(String::new()));
            }
            (is_code, is_open) = (!is_code, false);
            continue;
        }
        match blocks.last_mut() {
            Some(Block::Code(code)) if is_code => {
                code.extend([line, "\n"]);
                continue;
            }
            _ if trimmed.is_empty() => {
                is_open = false;
                continue;
            }
            _ => {}
        }
        if let Some(heading) = heading(trimmed) {
            blocks.push(Block::Heading(heading.to_owned()));
            is_open = false;
            continue;
        }
        match (blocks.last_mut(), item(trimmed)) {
            (Some(Block::List { is_ordered, items }), Some((kind, item)))
                if *is_ordered == kind =>
            {
                items.push(item.to_owned());
            }
            (_, Some((is_ordered, item))) => blocks.push(Block::List {
                is_ordered,
                items: vec![item.to_owned()],
            }),
            (Some(Block::Paragraph(text)), None) if is_open => text.extend([" ", trimmed]),
            (Some(Block::List { items, .. }), None) if is_open => {
                let last = items.last_mut().expect("a list has an item");
                last.extend([" ", trimmed]);
            }
            (_, None) => blocks.push(Block::Paragraph(trimmed.to_owned())),
        }
        is_open = true;
    }
    blocks
}

fn heading(line: &str) -> Option<&str> {
    let text = line.trim_start_matches('#');
    (text.len() < line.len()).then(|| text.strip_prefix(' '))?
}

/// An item of a list, and whether the list is ordered.
fn item(line: &str) -> Option<(bool, &str)> {
    if let Some(item) = line.strip_prefix("- ").or_else(|| line.strip_prefix("* ")) {
        return Some((false, item));
    }
    let item = line.trim_start_matches(|digit: char| digit.is_ascii_digit());
    let is_numbered = item.len() < line.len();
    is_numbered.then(|| Some((true, item.strip_prefix(". ")?)))?
}

/// A text without paragraphs.
pub(super) fn inline(text: &str) -> String {
    let mut html = String::new();
    let (mut rest, mut before) = (text, None);
    while let Some(at) = rest.find(SPECIAL) {
        let (plain, from) = rest.split_at(at);
        escape(plain, &mut html);
        before = plain.chars().next_back().or(before);
        let len = if let Some((span, len)) = span(from, before) {
            html.push_str(&span);
            len
        } else {
            escape(&from[..1], &mut html);
            1
        };
        before = from[..len].chars().next_back();
        rest = &from[len..];
    }
    escape(rest, &mut html);
    html
}

/// The span that `text` begins with, as HTML, and its length. `before` is the character in front.
fn span(text: &str, before: Option<char>) -> Option<(String, usize)> {
    let mut html = String::new();
    let len = match text.chars().next()? {
        '`' => {
            let fence = &text[..text.len() - text.trim_start_matches('`').len()];
            let (code, _) = text[fence.len()..].split_once(fence)?;
            let mut escaped = String::new();
            escape(code, &mut escaped);
            element("code", &escaped, &mut html);
            code.len() + 2 * fence.len()
        }
        '*' if text.starts_with("**") => {
            let (strong, _) = text[2..].split_once("**").filter(is_emphasis)?;
            element("strong", &inline(strong), &mut html);
            strong.len() + 4
        }
        mark @ ('*' | '_') => {
            let is_word = |letter: char| mark == '_' && letter.is_alphanumeric();
            let emphasis = text[1..].split_once(mark).filter(is_emphasis);
            let (emphasis, after) = emphasis.filter(|_| !before.is_some_and(is_word))?;
            if after.starts_with(is_word) {
                return None; // as in a_name_like_this
            }
            element("em", &inline(emphasis), &mut html);
            emphasis.len() + 2
        }
        '[' => {
            let (label, rest) = text[1..].split_once("](")?;
            let (target, _) = rest.split_once(')')?;
            link(target, &inline(label), &mut html);
            label.len() + target.len() + 4
        }
        '<' => {
            let (target, _) = text[1..].split_once('>')?;
            if !target.starts_with("http") || !is_allowed(target) {
                return None;
            }
            let mut label = String::new();
            escape(target, &mut label);
            link(target, &label, &mut html);
            target.len() + 2
        }
        _ => {
            let escaped = text[1..]
                .chars()
                .next()
                .filter(char::is_ascii_punctuation)?;
            escape(escaped.encode_utf8(&mut [0; 4]), &mut html);
            2
        }
    };
    Some((html, len))
}

fn is_emphasis((inner, _): &(&str, &str)) -> bool {
    !inner.is_empty() && inner.trim() == *inner
}

/// Writes a link, or only its label if the target is not allowed.
fn link(target: &str, label: &str, html: &mut String) {
    if is_allowed(target) {
        html.push_str("<a href=\"");
        escape(target, html);
        html.extend(["\">", label, "</a>"]);
    } else {
        html.push_str(label);
    }
}

/// Whether the target has the scheme `http` or `https`, or is a path of this host.
fn is_allowed(target: &str) -> bool {
    let is_path = target.starts_with('/') && !target.starts_with("//");
    let is_web = target.starts_with("https://") || target.starts_with("http://");
    (is_path || is_web)
        && target
            .chars()
            .all(|letter| letter.is_ascii_graphic() && letter != '\\')
}

fn escape(text: &str, html: &mut String) {
    for letter in text.chars() {
        match letter {
            '&' => html.push_str("&amp;"),
            '<' => html.push_str("&lt;"),
            '>' => html.push_str("&gt;"),
            '"' => html.push_str("&quot;"),
            '\'' => html.push_str("&#39;"),
            letter => html.push(letter),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn spans_become_elements() {
        for (text, html) in [
            ("plain", "plain"),
            ("`a < b` & c", "<code>a &lt; b</code> &amp; c"),
            ("``a ` b``", "<code>a ` b</code>"),
            (
                "*em* and **strong `code`**",
                "<em>em</em> and <strong>strong <code>code</code></strong>",
            ),
            (
                "_em_ but not a_name_like_this",
                "<em>em</em> but not a_name_like_this",
            ),
            ("2 * 3 * 4", "2 * 3 * 4"),
            (
                "[RFC 9457](https://a.org/x?a=1&b=2)",
                "<a href=\"https://a.org/x?a=1&amp;b=2\">RFC 9457</a>",
            ),
            ("[`docs`](/docs)", "<a href=\"/docs\"><code>docs</code></a>"),
            (
                "<https://a.org>",
                "<a href=\"https://a.org\">https://a.org</a>",
            ),
            (r"\*not\* this", "*not* this"),
            (
                "[`Problem`] `open [a](b",
                "[<code>Problem</code>] `open [a](b",
            ),
        ] {
            assert_eq!(inline(text), html, "{text}");
        }
    }

    #[test]
    fn a_link_leads_to_the_web_or_to_a_path() {
        for target in [
            "javascript:alert(1)",
            "JavaScript:alert(1)",
            "//evil.example",
            "/\\evil.example",
            "data:text/html,x",
            " https://a.org",
            "relative",
            "",
        ] {
            assert_eq!(
                inline(&format!("[a]({target})")).replace("<a ", "!"),
                inline(&format!("[a]({target})"))
            );
            assert!(!inline(&format!("<{target}>")).contains("<a "), "{target}");
        }
        assert_eq!(inline("[a](/\" onclick=\"x)"), "a");
        assert_eq!(inline("[a](/\"x\")"), "<a href=\"/&quot;x&quot;\">a</a>");
    }

    #[test]
    fn lines_become_blocks() {
        let text = "One\nparagraph.\n\n# Head\n- an item\n  in two lines\n- another\n\n1. first\n2. second\n\n\
                    ```json\n{ \"a\": *1* }\n\n```\nThe end.";
        assert_eq!(
            blocks(text),
            "<p>One paragraph.</p><p><strong>Head</strong></p>\
             <ul><li>an item in two lines</li><li>another</li></ul>\
             <ol><li>first</li><li>second</li></ol>\
             <pre tabindex=\"0\"><code>{ &quot;a&quot;: *1* }\n\n</code></pre><p>The end.</p>"
        );
    }

    proptest! {
        #[test]
        fn html_is_always_escaped(text in r"([ -~é\n]|</?script>|\[a\]\(/|\*\*|`|<https://){0,40}") {
            const OURS: [&str; 9] =
                ["p", "strong", "em", "code", "ul", "ol", "li", "a href=\"", "pre tabindex=\"0\""];
            let html = blocks(&text);
            for tag in html.split('<').skip(1) {
                let tag = tag.strip_prefix('/').unwrap_or(tag);
                let (tag, _) = tag.split_once('>').expect("a tag ends");
                let is_ours = |ours: &&str| tag == *ours || ours.ends_with('"') && tag.starts_with(*ours);
                let is_end = ["a", "pre"].contains(&tag);
                prop_assert!(is_end || OURS.iter().any(is_ours), "{html}");
                prop_assert!(!tag.starts_with("a href") || tag.matches('"').count() == 2, "{html}");
            }
        }
    }
}
