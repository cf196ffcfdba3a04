//! [`blocks`] and [`inline`]: the Markdown of descriptions as HTML: paragraphs, lists, code, links and
//! emphasis, which doc comments and the comments of `.proto` files use. All text is escaped, HTML
//! included, and a link leads to `http`, `https` or a path.

use pulldown_cmark::{Event, Parser, Tag, TagEnd};

/// A text with paragraphs, lists and blocks of code.
pub(super) fn blocks(text: &str) -> String {
    render(text, true)
}

/// A text without paragraphs.
pub(super) fn inline(text: &str) -> String {
    render(text, false)
}

fn render(text: &str, has_paragraphs: bool) -> String {
    let mut html = String::new();
    let mut is_link = false; // links are never within others
    for event in Parser::new(text) {
        match event {
            Event::Start(Tag::Link { dest_url, .. }) if is_allowed(&dest_url) => {
                is_link = true;
                html.push_str("<a href=\"");
                escape(&dest_url, &mut html);
                html.push_str("\">");
            }
            Event::End(TagEnd::Link) if is_link => {
                is_link = false;
                html.push_str("</a>");
            }
            Event::Start(Tag::Paragraph) | Event::End(TagEnd::Paragraph) if !has_paragraphs => {}
            Event::Start(tag) => html.push_str(start_and_end(tag.to_end()).0),
            Event::End(tag) => html.push_str(start_and_end(tag).1),
            Event::Code(code) => {
                html.push_str("<code>");
                escape(&code, &mut html);
                html.push_str("</code>");
            }
            Event::Text(text) | Event::Html(text) | Event::InlineHtml(text) => {
                escape(&text, &mut html);
            }
            Event::SoftBreak | Event::HardBreak => html.push(' '),
            _ => {}
        }
    }
    html
}

/// The HTML around what is within a tag. A tag without any shows what is within.
fn start_and_end(tag: TagEnd) -> (&'static str, &'static str) {
    match tag {
        TagEnd::Paragraph => ("<p>", "</p>"),
        TagEnd::Heading(_) => ("<p><strong>", "</strong></p>"),
        TagEnd::List(true) => ("<ol>", "</ol>"),
        TagEnd::List(false) => ("<ul>", "</ul>"),
        TagEnd::Item => ("<li>", "</li>"),
        TagEnd::CodeBlock => ("<pre tabindex=\"0\"><code>", "</code></pre>"),
        TagEnd::Emphasis => ("<em>", "</em>"),
        TagEnd::Strong => ("<strong>", "</strong>"),
        _ => ("", ""),
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
            "relative",
            "",
        ] {
            assert_eq!(
                inline(&format!("[a]({target})")).replace("<a ", "!"),
                inline(&format!("[a]({target})"))
            );
            assert!(!inline(&format!("<{target}>")).contains("<a "), "{target}");
        }
        assert!(!inline("[a](/\" onclick=\"x)").contains("<a "));
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
