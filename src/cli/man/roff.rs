//! The little markdown that manuals are written in, as roff for `man`: headings, paragraphs, tables, lists, code.
//!
//! The result is ASCII, so that every `man` shows it the same way.

/// A whole text. A table becomes a list of its first column with the rest of each row below it.
pub(super) fn from_markdown(text: &str) -> String {
    let mut page = Page::default();
    let mut lines = text.lines().peekable();
    while let Some(line) = lines.next() {
        if line.starts_with("```") {
            page.end_paragraph();
            let code: Vec<&str> = lines.by_ref().take_while(|line| !line.starts_with("```")).collect();
            page.code(&code);
        } else if line.starts_with('|') {
            page.end_paragraph();
            let mut rows = vec![cells(line)];
            while let Some(row) = lines.next_if(|line| line.starts_with('|')) {
                rows.push(cells(row));
            }
            page.table(&rows);
        } else if let Some(heading) = line.strip_prefix("## ") {
            page.end_paragraph();
            // Bold already.
            page.control("SS", &escape(&heading.replace('`', "")));
        } else if let Some(heading) = line.strip_prefix("# ") {
            page.end_paragraph();
            page.control("SH", &escape(&heading.to_uppercase()));
        } else if let Some(point) = line.strip_prefix("- ") {
            page.end_paragraph();
            page.control("IP", "\\(bu 2");
            page.paragraph.push(point.to_string());
        } else if line.trim().is_empty() {
            page.end_paragraph();
        } else {
            if page.paragraph.is_empty() {
                page.control("PP", "");
            }
            page.paragraph.push(line.trim().to_string());
        }
    }
    page.end_paragraph();
    page.roff
}

#[derive(Default)]
struct Page {
    roff: String,
    /// Lines of the paragraph that is being read; code may begin on one and end on the next.
    paragraph: Vec<String>,
}

impl Page {
    fn control(&mut self, request: &str, argument: &str) {
        self.roff.push_str(format!(".{request} {argument}").trim_end());
        self.roff.push('\n');
    }

    fn text(&mut self, text: &str) {
        // At the start of a line a dot is a request.
        if text.starts_with('.') {
            self.roff.push_str("\\&");
        }
        self.roff.push_str(text);
        self.roff.push('\n');
    }

    fn end_paragraph(&mut self) {
        if !self.paragraph.is_empty() {
            let text = std::mem::take(&mut self.paragraph).join(" ");
            self.text(&inline(&text));
        }
    }

    fn code(&mut self, lines: &[&str]) {
        self.roff.push_str(".PP\n.RS 4\n.nf\n");
        for line in lines {
            self.text(&escape(line));
        }
        self.roff.push_str(".fi\n.RE\n");
    }

    fn table(&mut self, rows: &[Vec<String>]) {
        let Some((header, rows)) = rows.split_first() else {
            return;
        };
        for row in rows.iter().filter(|row| !is_rule(row)) {
            let [tag, rest @ ..] = &row[..] else { continue };
            self.control("TP", "");
            self.text(&bold(tag));
            let mut text = String::new();
            for (name, cell) in header.iter().skip(1).zip(rest).filter(|(_, cell)| !cell.is_empty()) {
                if name == "default" {
                    continue;
                }
                text.push_str(if text.is_empty() { "" } else { "; " });
                text.push_str(&inline(cell));
            }
            let defaults = header.iter().zip(row).find(|(name, _)| *name == "default");
            if let Some((_, cell)) = defaults.filter(|(_, cell)| !cell.is_empty()) {
                text.push_str(&format!(" [default: {}]", inline(cell)));
            }
            self.text(&text);
        }
    }
}

/// The cells of one table row; `\|` is a bar and no border.
fn cells(line: &str) -> Vec<String> {
    let line = line.trim().trim_start_matches('|');
    let line = line.strip_suffix('|').unwrap_or(line).replace("\\|", "\u{0}");
    line.split('|').map(|cell| cell.trim().replace('\u{0}', "|")).collect()
}

/// `| --- | --- |`
fn is_rule(row: &[String]) -> bool {
    row.iter()
        .all(|cell| !cell.is_empty() && cell.chars().all(|c| "-:".contains(c)))
}

/// `code` and **strong** words are bold.
fn inline(text: &str) -> String {
    let mut roff = String::new();
    for (index, part) in text.split('`').enumerate() {
        if index % 2 == 1 {
            roff.push_str(&format!("\\fB{}\\fR", escape(part)));
            continue;
        }
        for (index, part) in part.split("**").enumerate() {
            match index % 2 {
                1 => roff.push_str(&format!("\\fB{}\\fR", escape(part))),
                _ => roff.push_str(&escape(part)),
            }
        }
    }
    roff
}

fn bold(text: &str) -> String {
    format!("\\fB{}\\fR", escape(&text.replace('`', "")))
}

/// Text that means itself.
pub(super) fn escape(text: &str) -> String {
    let mut roff = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\\' => roff.push_str("\\(rs"),
            '-' => roff.push_str("\\-"),
            '\'' => roff.push_str("\\(aq"),
            '`' => roff.push_str("\\(ga"),
            '^' => roff.push_str("\\(ha"),
            '~' => roff.push_str("\\(ti"),
            c if c.is_ascii() => roff.push(c),
            c => roff.push_str(&format!("\\[u{:04X}]", u32::from(c))),
        }
    }
    roff
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks() {
        for (markdown, roff) in [
            ("one\ntwo\n\nthree", ".PP\none two\n.PP\nthree\n"),
            ("# Exit status\n## Of `[old]`", ".SH EXIT STATUS\n.SS Of [old]\n"),
            ("- a\n- b", ".IP \\(bu 2\na\n.IP \\(bu 2\nb\n"),
            (
                "```toml\n.a = 1\n\n```\nb",
                ".PP\n.RS 4\n.nf\n\\&.a = 1\n\n.fi\n.RE\n.PP\nb\n",
            ),
            ("```\nnever closed", ".PP\n.RS 4\n.nf\nnever closed\n.fi\n.RE\n"),
        ] {
            assert_eq!(from_markdown(markdown), roff, "{markdown}");
        }
    }

    #[test]
    fn a_table_is_a_list_of_its_first_column() {
        let table = "| option | default | meaning |\n| --- | --- | --- |\n| `queue` | | the queue |\n| `by` | `\"a\\|b\"` | `x` or y |";
        let roff = ".TP\n\\fBqueue\\fR\nthe queue\n.TP\n\\fBby\\fR\n\\fBx\\fR or y [default: \\fB\"a|b\"\\fR]\n";
        assert_eq!(from_markdown(table), roff);
    }

    #[test]
    fn text_means_itself() {
        for (markdown, roff) in [
            ("a-b \\ 'c' ~ ^", "a\\-b \\(rs \\(aqc\\(aq \\(ti \\(ha"),
            ("`--all` is **not**", "\\fB\\-\\-all\\fR is \\fBnot\\fR"),
            ("≤ 5 …", "\\[u2264] 5 \\[u2026]"),
            ("`code over\nlines`", "\\fBcode over lines\\fR"),
        ] {
            assert_eq!(from_markdown(markdown), format!(".PP\n{roff}\n"), "{markdown}");
        }
    }
}
