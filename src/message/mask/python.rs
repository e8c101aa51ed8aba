//! Python's spelling of regular expressions, put into one that the engines here read alike.
//!
//! | Python | meaning |
//! | --- | --- |
//! | `{` that starts no count, `{}` | itself |
//! | `{,5}` | `{0,5}` |
//! | `\Z` | the end of the name |
//! | `(?i)` anywhere | holds for the whole pattern |
//! | `(?#…)`, blanks and comments under `(?x)` | nothing |
//! | `[`, `&&`, `--`, `~~` and blanks in a class | themselves |
//! | `\_`, `\<`, `\h`: an escape that Python has no meaning for | the character itself |
//! | `\07`, `\101` | the byte of that octal number |
//! | `a++`, `a**` | refused, as Python does: `++` is no plus sign |
//!
//! Valid beyond Python, as they always were here: `(?<name>…)`, `(?i:…)`, `\p{L}`. `[[:digit:]]` is refused, because
//! it means one thing to Python and another to everybody else.
//!
//! What stays different: `$` is the very end, also of a name that ends in a newline; a group that repeats and can be
//! empty, as in `(a*)*`, may hold another of its texts; look-around with nothing else in a repetition is refused.

const BLANKS: [char; 6] = [' ', '\t', '\n', '\r', '\x0b', '\x0c'];

/// Who reads the pattern.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reader {
    /// The engine that takes one pass, over bytes.
    OnePass,
    /// The engine that backtracks, over text with one character for every byte: see [`text_of_bytes`].
    Backtracking,
}

/// A pattern as an engine reads it.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Spelling {
    OnePass(String),
    /// With look-around, back-references, conditions.
    Backtracking(String),
}

/// The pattern respelled. What is wrong with it beyond the spelling is left to the engines to say.
pub(super) fn respell(pattern: &str) -> Result<Spelling, String> {
    let (text, needs_backtracking) = respell_for(Reader::OnePass, pattern)?;
    if !needs_backtracking {
        return Ok(Spelling::OnePass(text));
    }
    let (text, _) = respell_for(Reader::Backtracking, &text_of_bytes(pattern.as_bytes()))?;
    Ok(Spelling::Backtracking(text))
}

/// Every byte as the character of that number, so that an engine for text takes names in any encoding byte by byte.
pub(super) fn text_of_bytes(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| char::from(*byte)).collect()
}

/// The pattern for this reader, and whether it needs the one that backtracks.
fn respell_for(reader: Reader, pattern: &str) -> Result<(String, bool), String> {
    let mut speller = Speller::new(reader, pattern, String::new());
    speller.run()?;
    if speller.flags.contains('x') {
        speller = Speller::new(reader, pattern, speller.flags);
        speller.run()?;
    }
    let needs_backtracking = speller.needs_backtracking;
    Ok((speller.finish(), needs_backtracking))
}

/// What stands before the place that is read, as far as a repetition cares.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Before {
    Nothing,
    Something,
    Repetition,
}

struct Speller<'p> {
    reader: Reader,
    rest: &'p str,
    out: String,
    /// Flags of the whole pattern, found so far.
    flags: String,
    is_verbose: bool,
    needs_backtracking: bool,
    before: Before,
}

impl<'p> Speller<'p> {
    /// Starts over with the flags that a first reading found: only then is it known whether blanks count.
    fn new(reader: Reader, pattern: &'p str, flags: String) -> Self {
        Speller {
            reader,
            rest: pattern,
            out: String::new(),
            is_verbose: flags.contains('x'),
            flags,
            needs_backtracking: false,
            before: Before::Nothing,
        }
    }

    fn run(&mut self) -> Result<(), String> {
        while let Some(c) = self.take() {
            match c {
                '\\' => self.escape()?,
                '[' => self.class()?,
                '(' => self.open()?,
                '|' => self.put("|", Before::Nothing),
                '*' | '+' | '?' => self.repeat(&c.to_string())?,
                '{' => match self.count() {
                    Some(count) => self.repeat(&count)?,
                    None => self.put(&literal('{'), Before::Something),
                },
                '}' | ']' => self.put(&literal(c), Before::Something),
                '#' if self.is_verbose => drop(self.take_while(|c| c != '\n')),
                c if self.is_verbose && BLANKS.contains(&c) => {}
                c => self.put(c.encode_utf8(&mut [0; 4]), Before::Something),
            }
        }
        Ok(())
    }

    fn finish(self) -> String {
        let flags: String = "ims".chars().filter(|flag| self.flags.contains(*flag)).collect();
        match flags.as_str() {
            "" => self.out,
            flags => format!("(?{flags}){}", self.out),
        }
    }

    fn put(&mut self, text: &str, before: Before) {
        self.out.push_str(text);
        self.before = before;
    }

    fn take(&mut self) -> Option<char> {
        let mut chars = self.rest.chars();
        let next = chars.next();
        self.rest = chars.as_str();
        next
    }

    fn eat(&mut self, text: &str) -> bool {
        let after = self.rest.strip_prefix(text);
        self.rest = after.unwrap_or(self.rest);
        after.is_some()
    }

    fn take_while(&mut self, is_wanted: impl Fn(char) -> bool) -> &'p str {
        let end = self.rest.find(|c| !is_wanted(c)).unwrap_or(self.rest.len());
        let (taken, rest) = self.rest.split_at(end);
        self.rest = rest;
        taken
    }

    /// What comes before the next `end`, which is taken too.
    fn take_until(&mut self, end: char) -> Result<&'p str, String> {
        let (taken, rest) = self.rest.split_once(end).ok_or_else(|| format!("missing {end}"))?;
        self.rest = rest;
        Ok(taken)
    }

    fn repeat(&mut self, how: &str) -> Result<(), String> {
        if self.before == Before::Repetition {
            return Err(format!(r"multiple repeat at {how}; the character itself is \{how}"));
        }
        self.put(how, Before::Repetition);
        if self.eat("?") {
            self.put("?", Before::Repetition);
        }
        Ok(())
    }

    /// The rest of `{2}`, `{2,}`, `{,3}` or `{2,3}`; anything else is no count and stays where it is.
    fn count(&mut self) -> Option<String> {
        let (inner, rest) = self.rest.split_once('}')?;
        let (low, high) = match inner.split_once(',') {
            Some((low, high)) => (low, Some(high)),
            None => (inner, None),
        };
        let are_digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
        if inner.is_empty() || !are_digits(low) || !high.is_none_or(are_digits) {
            return None;
        }
        self.rest = rest;
        let low = if low.is_empty() { "0" } else { low };
        Some(match high {
            Some(high) => format!("{{{low},{high}}}"),
            None => format!("{{{low}}}"),
        })
    }

    /// What follows an opening bracket.
    fn open(&mut self) -> Result<(), String> {
        if !self.eat("?") {
            self.put("(", Before::Nothing);
            return Ok(());
        }
        if self.eat("#") {
            return self.take_until(')').map(drop);
        }
        let letters = self.rest.trim_start_matches(['a', 'i', 'L', 'm', 's', 'u', 'x']);
        if let Some(rest) = letters
            .strip_prefix(')')
            .filter(|rest| rest.len() + 1 < self.rest.len())
        {
            self.flags.push_str(&self.rest[..self.rest.len() - letters.len()]);
            self.rest = rest;
            return Ok(());
        }
        if let Some(look) = ["=", "!", "<=", "<!"].into_iter().find(|look| self.eat(look)) {
            self.needs_backtracking = true;
            self.put(&format!("(?{look}"), Before::Nothing);
        } else if self.eat("P=") {
            let name = self.take_until(')')?;
            self.needs_backtracking = true;
            self.put(&format!("(?P={name})"), Before::Something);
        } else if self.eat("(") {
            let group = self.take_until(')')?;
            let is_number = group.bytes().all(|byte| byte.is_ascii_digit());
            let group = if is_number {
                group.to_string()
            } else {
                format!("<{group}>")
            };
            self.needs_backtracking = true;
            self.put(&format!("(?({group})"), Before::Nothing);
        } else {
            let end = self.rest.find([':', '>', ')']).map_or(self.rest.len(), |end| end + 1);
            let (opening, rest) = self.rest.split_at(end);
            self.rest = rest;
            self.put(&format!("(?{opening}"), Before::Nothing);
        }
        Ok(())
    }

    /// What follows a backslash outside a class.
    fn escape(&mut self) -> Result<(), String> {
        let text = match self.take() {
            Some(digit @ '1'..='9') => match self.octal_of_three(digit) {
                Some(byte) => byte,
                None => {
                    let second = self.rest.starts_with(|c: char| c.is_ascii_digit());
                    let second = if second { self.take() } else { None };
                    self.needs_backtracking = true;
                    // A digit that follows is none of the reference's.
                    format!(r"(?:\{digit}{})", second.map(String::from).unwrap_or_default())
                }
            },
            Some('A') => r"\A".to_string(),
            Some(edge @ ('b' | 'B')) => self.edge(edge),
            Some(class @ ('d' | 'D' | 's' | 'S' | 'w' | 'W')) => self.outside(class),
            Some('z' | 'Z') => r"\z".to_string(),
            Some(kind @ ('p' | 'P')) if self.eat("{") => format!(r"\{kind}{{{}}}", self.take_until('}')?),
            other => self.one_escaped(other)?,
        };
        self.put(&text, Before::Something);
        Ok(())
    }

    /// An escape for a class of bytes, where a class may stand.
    fn outside(&self, class: char) -> String {
        match self.reader {
            Reader::OnePass => self.inside(class),
            Reader::Backtracking => format!("[{}]", self.inside(class)),
        }
    }

    /// The same within brackets. These are classes of ASCII, whatever the engine holds of the letters beyond.
    fn inside(&self, class: char) -> String {
        let ranges = match (self.reader, class) {
            (Reader::OnePass, _) => return format!(r"\{class}"),
            (_, 'd') => r"0-9",
            (_, 'D') => r"\x00-\x2f\x3a-\xff",
            (_, 's') => r"\x09-\x0d\x20",
            (_, 'S') => r"\x00-\x08\x0e-\x1f\x21-\xff",
            (_, 'w') => r"0-9A-Z_a-z",
            (_, _) => r"\x00-\x2f\x3a-\x40\x5b-\x5e\x60\x7b-\xff",
        };
        ranges.to_string()
    }

    /// `\b` and `\B`: between a byte of a word and one of none, or not.
    fn edge(&self, edge: char) -> String {
        let text = match (self.reader, edge) {
            (Reader::OnePass, _) => return format!(r"\{edge}"),
            (_, 'b') => r"(?:(?<=[0-9A-Z_a-z])(?![0-9A-Z_a-z])|(?<![0-9A-Z_a-z])(?=[0-9A-Z_a-z]))",
            (_, _) => r"(?:(?<=[0-9A-Z_a-z])(?=[0-9A-Z_a-z])|(?<![0-9A-Z_a-z])(?![0-9A-Z_a-z]))",
        };
        text.to_string()
    }

    /// Escapes that mean the same inside a class and outside.
    fn one_escaped(&mut self, escaped: Option<char>) -> Result<String, String> {
        Ok(match escaped.ok_or("a backslash at the end")? {
            class @ ('d' | 'D' | 's' | 'S' | 'w' | 'W') => self.inside(class),
            'a' => literal('\x07'),
            'f' => literal('\x0c'),
            'n' => literal('\n'),
            'r' => literal('\r'),
            't' => literal('\t'),
            'v' => literal('\x0b'),
            'x' => {
                let digits = self
                    .rest
                    .get(..2)
                    .filter(|two| two.bytes().all(|b| b.is_ascii_hexdigit()));
                let digits = digits.ok_or(r"\x wants two hexadecimal digits")?;
                self.rest = &self.rest[2..];
                format!(r"\x{digits}")
            }
            '0' => self.octal_from('0'),
            other => literal(other),
        })
    }

    /// `\101`: three octal digits are a byte, fewer are a reference to a group.
    fn octal_of_three(&mut self, first: char) -> Option<String> {
        let two = self.rest.get(..2)?;
        let is_octal = |c: char| ('0'..='7').contains(&c);
        if !is_octal(first) || !two.chars().all(is_octal) {
            return None;
        }
        self.rest = &self.rest[2..];
        Some(octal(&format!("{first}{two}")))
    }

    /// The byte of this octal digit and of at most two that follow.
    fn octal_from(&mut self, first: char) -> String {
        let is_octal = |byte: &u8| matches!(byte, b'0'..=b'7');
        let (digits, rest) = self
            .rest
            .split_at(self.rest.bytes().take(2).take_while(is_octal).count());
        self.rest = rest;
        octal(&format!("{first}{digits}"))
    }

    /// What follows `[`, up to its `]`.
    fn class(&mut self) -> Result<(), String> {
        let mut class = String::from(if self.eat("^") { "[^" } else { "[" });
        let mut is_first = true;
        loop {
            let c = self.take().ok_or("unclosed character class")?;
            if c == ']' && !is_first {
                break;
            }
            is_first = false;
            class.push_str(&self.one_of_class(c)?);
            if self.rest.starts_with('-') && !self.rest.starts_with("-]") && self.rest.len() > 1 {
                self.rest = &self.rest[1..];
                let end = self.take().ok_or("unclosed character class")?;
                let end = self.one_of_class(end)?;
                class.push('-');
                class.push_str(&end);
            }
        }
        class.push(']');
        self.put(&class, Before::Something);
        Ok(())
    }

    fn one_of_class(&mut self, c: char) -> Result<String, String> {
        if c == '[' && is_posix(self.rest) {
            return Err("[[:name:]] is no class of Python's; spell it out, as in [0-9]".to_string());
        }
        if c != '\\' {
            return Ok(literal(c));
        }
        match self.take() {
            Some('b') => Ok(literal('\x08')),
            Some(first @ '1'..='7') => Ok(self.octal_from(first)),
            other => self.one_escaped(other),
        }
    }
}

/// A character that stands for itself, spelled so that no engine sees more in it.
fn literal(c: char) -> String {
    if c.is_ascii() && !c.is_ascii_alphanumeric() && c != '_' {
        format!(r"\x{:02x}", u32::from(c))
    } else {
        c.to_string()
    }
}

/// The byte of at most three octal digits.
fn octal(digits: &str) -> String {
    let value = digits
        .bytes()
        .fold(0u32, |value, digit| value * 8 + u32::from(digit - b'0'));
    format!(r"\x{:02x}", value & 0xff)
}

/// Whether `:digit:]` and the like follow.
fn is_posix(after_bracket: &str) -> bool {
    let name = after_bracket.strip_prefix(':').and_then(|rest| rest.split_once(":]"));
    name.is_some_and(|(name, _)| !name.is_empty() && name.bytes().all(|b| b.is_ascii_lowercase() || b == b'^'))
}
