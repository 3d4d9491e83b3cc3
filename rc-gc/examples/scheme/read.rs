//! From text to values: the reader. No unsafe here.

use super::heap;
use super::value::{Symbols, Value};

/// Reads a text, value after value.
pub(crate) struct Reader<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Reader<'a> {
    pub(crate) fn new(text: &'a str) -> Self {
        Reader { text, at: 0 }
    }

    /// The next value, or `None` at the end.
    pub(crate) fn next_value(&mut self) -> Result<Option<Value>, String> {
        match self.peek() {
            None => Ok(None),
            Some(_) => self.value().map(Some),
        }
    }

    fn error<T>(&self, what: &str) -> Result<T, String> {
        let line = self.text[..self.at].matches('\n').count() + 1;
        Err(format!("line {line}: {what}"))
    }

    /// The next character that is neither space nor comment.
    fn peek(&mut self) -> Option<char> {
        loop {
            let rest = &self.text[self.at..];
            let next = rest.chars().next()?;
            if next == ';' {
                self.at += rest.find('\n').unwrap_or(rest.len());
            } else if next.is_whitespace() {
                self.at += next.len_utf8();
            } else {
                return Some(next);
            }
        }
    }

    fn value(&mut self) -> Result<Value, String> {
        match self.peek() {
            None => self.error("the text ends inside a value"),
            Some('(') => {
                self.at += 1;
                self.list()
            }
            Some(')') => self.error("a `)` too many"),
            Some('\'') => {
                self.at += 1;
                let quoted = self.value()?;
                let quote = Value::Symbol(Symbols::get("quote"));
                Ok(Value::list([quote, quoted].into_iter()))
            }
            Some('"') => self.string(),
            Some(_) => Ok(self.atom()),
        }
    }

    fn list(&mut self) -> Result<Value, String> {
        let mut values = Vec::new();
        let mut rest = Value::Nil;
        loop {
            match self.peek() {
                Some(')') => {
                    self.at += 1;
                    return Ok(values.into_iter().rev().fold(rest, |rest, v| heap::cons(v, rest)));
                }
                Some('.') if self.text[self.at + 1..].starts_with(char::is_whitespace) => {
                    self.at += 1;
                    rest = self.value()?;
                    if self.peek() != Some(')') || values.is_empty() {
                        return self.error("a `.` stands before the last value of a list");
                    }
                }
                _ => values.push(self.value()?),
            }
        }
    }

    fn string(&mut self) -> Result<Value, String> {
        self.at += 1;
        let mut text = String::new();
        let mut chars = self.text[self.at..].char_indices();
        while let Some((offset, next)) = chars.next() {
            match next {
                '"' => {
                    self.at += offset + 1;
                    return Ok(heap::string(text));
                }
                '\\' => match chars.next() {
                    Some((_, 'n')) => text.push('\n'),
                    Some((_, 't')) => text.push('\t'),
                    Some((_, other)) => text.push(other),
                    None => break,
                },
                other => text.push(other),
            }
        }
        self.error("the text ends inside a string")
    }

    fn atom(&mut self) -> Value {
        let rest = &self.text[self.at..];
        let ends = |c: char| c.is_whitespace() || matches!(c, '(' | ')' | '\'' | '"' | ';');
        let word = &rest[..rest.find(ends).unwrap_or(rest.len())];
        self.at += word.len();
        match word {
            "#t" => Value::Bool(true),
            "#f" => Value::Bool(false),
            _ => match (word.parse::<i64>(), word.parse::<f64>()) {
                (Ok(number), _) => Value::Int(number),
                (_, Ok(number)) if word.contains(|c: char| c.is_ascii_digit()) => {
                    Value::Real(number)
                }
                _ => Value::Symbol(Symbols::get(word)),
            },
        }
    }
}
