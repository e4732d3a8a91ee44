//! The house rules, held by reading the sources: who may use whom, where `unsafe` and clocks live, how long things are.
//!
//! It reads code, not words: comments and literals are blanked first, and so is what is compiled for tests only.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// The ladder: a module uses those of lower rungs; those that share a rung never meet.
///
/// `options` stands above `format`, because validating sizes takes the format's arithmetic on them (`batch_bytes`,
/// `record_bytes` and the header lengths); `format` knows nothing of options.
const LADDER: [&[&str]; 11] = [
    &["lsn", "method", "seeded"],
    &["error", "stats"],
    &["format"],
    &["options"],
    &["journal", "disk"],
    &["runtime"],
    &["read"],
    &["ship"],
    &["log"],
    &["harness", "bench_support"],
    &["lib"],
];

/// The baselines stand beside the ladder: they are users of the log, with a door to bytes and to the disk.
const ENGINES_USE: [&str; 9] = ["disk", "error", "format", "log", "lsn", "method", "options", "stats", "seeded"];

const FILE_LINES_MAX: usize = 600;
const FUNCTION_LINES_MAX: usize = 70;

/// Who may read a clock: time is an argument everywhere else.
const CLOCK_READERS: [&str; 5] = ["runtime", "log", "disk", "engines", "bin"];

/// Functions that may be longer than the rest, by path and name; the reason belongs beside each. Meant to stay empty.
const LONG_FUNCTIONS: [(&str, &str); 0] = [];

#[test]
fn the_house_rules_hold() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let sources = sources(&root);
    assert!(sources.len() > 30, "found only {} sources", sources.len());
    let offences: Vec<String> = offences(&sources);
    assert!(offences.is_empty(), "{} offences\n{}", offences.len(), offences.join("\n"));
}

/// Every `.rs` file below `root`: its path from there, and its text.
fn sources(root: &Path) -> Vec<(String, String)> {
    let mut found = Vec::new();
    let mut left = vec![PathBuf::from(root)];
    while let Some(dir) = left.pop() {
        for entry in fs::read_dir(&dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                left.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let name = path.strip_prefix(root).unwrap().to_str().unwrap().to_owned();
                found.push((name, fs::read_to_string(&path).unwrap()));
            }
        }
    }
    found.sort();
    found
}

fn offences(sources: &[(String, String)]) -> Vec<String> {
    let files: Vec<File> = sources.iter().map(|(path, text)| File::new(path, text)).collect();
    let test_modules: BTreeSet<Vec<String>> = files.iter().flat_map(File::test_modules).collect();
    let for_tests = |file: &File| (1..=file.module.len()).any(|len| test_modules.contains(&file.module[..len]));
    let mut offences = Vec::new();
    for file in &files {
        file.check_opening(&mut offences);
        file.check_unsafe(&mut offences);
        if !for_tests(file) {
            file.check_ladder(&mut offences);
            file.check_words(&mut offences);
            file.check_lengths(&mut offences);
        }
    }
    offences
}

/// A token of code and the line it stands on, from 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Token<'a> {
    text: &'a str,
    line: usize,
}

/// A source file, read.
struct File {
    path: String,
    /// Its module path, below the crate.
    module: Vec<String>,
    text: String,
    /// The text with comments and literals blanked.
    code: String,
}

impl File {
    fn new(path: &str, text: &str) -> Self {
        let stem = path.strip_suffix(".rs").unwrap_or(path);
        let stem = stem.strip_suffix("/mod").unwrap_or(stem);
        let module = stem.split('/').map(str::to_owned).collect();
        Self { path: path.to_owned(), module, text: text.to_owned(), code: blanked(text) }
    }

    fn offence(&self, line: usize, what: impl std::fmt::Display) -> String {
        format!("src/{}:{}: {what}", self.path, line + 1)
    }

    /// The module of the crate that it belongs to; "bin" for the command line.
    fn top(&self) -> &str {
        &self.module[0]
    }

    fn tokens(&self) -> Vec<Token<'_>> {
        tokens(&self.code)
    }

    /// The tokens that are not compiled for tests only.
    fn shipped(&self) -> Vec<Token<'_>> {
        let tokens = self.tokens();
        let mut kept = Vec::with_capacity(tokens.len());
        let mut at = 0;
        while at < tokens.len() {
            match test_item(&tokens[at..]) {
                Some(len) => at += len,
                None => {
                    kept.push(tokens[at]);
                    at += 1;
                }
            }
        }
        kept
    }

    /// The modules in files of their own that it declares for tests only.
    fn test_modules(&self) -> Vec<Vec<String>> {
        let tokens = self.tokens();
        let mut found = Vec::new();
        for at in 0..tokens.len() {
            let Some(len) = test_item(&tokens[at..]) else { continue };
            let item = &tokens[at..at + len];
            if let [.., Token { text: "mod", .. }, name, Token { text: ";", .. }] = item {
                let mut module = self.module.clone();
                if self.path == "lib.rs" {
                    module.clear();
                }
                module.push(name.text.to_owned());
                found.push(module);
            }
        }
        found
    }

    fn check_opening(&self, offences: &mut Vec<String>) {
        // A program that is not written yet.
        let empty = self.text.trim() == "fn main() {}";
        if !self.text.starts_with("//!") && !empty {
            offences.push(self.offence(0, "does not open with `//!`"));
        }
    }

    fn check_unsafe(&self, offences: &mut Vec<String>) {
        if self.top() != "disk" {
            let found = self.tokens().into_iter().filter(|token| token.text == "unsafe");
            offences.extend(found.map(|token| self.offence(token.line, "`unsafe` outside disk/")));
        }
    }

    fn check_words(&self, offences: &mut Vec<String>) {
        for window in self.shipped().windows(3) {
            let [word, then, last] = [window[0].text, window[1].text, window[2].text];
            if matches!(word, "todo" | "unimplemented" | "dbg") && then == "!" {
                offences.push(self.offence(window[0].line, format_args!("`{word}!`")));
            }
            let clock = matches!(word, "Instant" | "SystemTime") && then == "::" && last == "now";
            if clock && !CLOCK_READERS.contains(&self.top()) {
                offences.push(self.offence(window[0].line, format_args!("`{word}::now`: time is an argument here")));
            }
        }
    }

    fn check_lengths(&self, offences: &mut Vec<String>) {
        let shipped = self.shipped();
        let without_tests = self.text.lines().count() - self.test_lines();
        if without_tests > FILE_LINES_MAX {
            offences.push(self.offence(0, format_args!("{without_tests} lines, over {FILE_LINES_MAX}")));
        }
        for (at, pair) in shipped.windows(2).enumerate() {
            // `fn(` is a type.
            if pair[0].text != "fn" || pair[1].text == "(" {
                continue;
            }
            let Some(end) = item_end(&shipped[at..], false) else { continue };
            let lines = shipped[at + end - 1].line - pair[0].line + 1;
            let name = pair[1].text;
            let allowed = LONG_FUNCTIONS.contains(&(self.path.as_str(), name));
            if lines > FUNCTION_LINES_MAX && !allowed {
                let what = format_args!("`{name}` has {lines} lines, over {FUNCTION_LINES_MAX}").to_string();
                offences.push(self.offence(pair[0].line, what));
            }
        }
    }

    fn test_lines(&self) -> usize {
        let tokens = self.tokens();
        let (mut at, mut lines) = (0, 0);
        while at < tokens.len() {
            match test_item(&tokens[at..]) {
                Some(len) => {
                    lines += tokens[at + len - 1].line - tokens[at].line + 1;
                    at += len;
                }
                None => at += 1,
            }
        }
        lines
    }

    fn check_ladder(&self, offences: &mut Vec<String>) {
        let own = self.top();
        for (line, path) in self.uses() {
            let Some(target) = path.first() else { continue };
            // The command line is a crate of its own: its `crate` is not the library.
            let broken = match own {
                "lib" | "bin" => None,
                _ if target == own => None,
                "engines" if ENGINES_USE.contains(&target.as_str()) => None,
                // Baselines run on the same prepared file as ours.
                "engines" if path.starts_with(&["runtime".to_owned(), "prepare".to_owned()]) => None,
                "engines" => Some("engines do not use it".to_owned()),
                _ => broken_rung(own, target),
            };
            if let Some(why) = broken {
                offences.push(self.offence(line, format_args!("uses `{}`: {why}", path.join("::"))));
            }
        }
        if own == "bin" {
            self.check_bin(offences);
        }
    }

    /// The command line sees what any user sees, and the engines it compares.
    fn check_bin(&self, offences: &mut Vec<String>) {
        for window in self.shipped().windows(3) {
            let [word, then, last] = [window[0].text, window[1].text, window[2].text];
            let hidden = matches!(last, "harness" | "sim" | "seeded");
            if word == "ringwal" && then == "::" && hidden {
                offences.push(self.offence(window[0].line, format_args!("uses `ringwal::{last}`: it is for tests")));
            }
        }
    }

    /// Every path of this crate that it names, in `use` or inline: the line, and the path from the crate's root.
    fn uses(&self) -> Vec<(usize, Vec<String>)> {
        let tokens = self.shipped();
        let mut found = Vec::new();
        // Inline modules that the token lies in, each with the depth of braces around it.
        let mut inline: Vec<(usize, &str)> = Vec::new();
        let mut depth = 0;
        for at in 0..tokens.len() {
            let text = tokens[at].text;
            match text {
                "{" => depth += 1,
                "}" => {
                    depth -= 1;
                    inline.pop_if(|(outside, _)| *outside == depth);
                }
                "mod" if tokens.get(at + 2).is_some_and(|token| token.text == "{") => {
                    inline.push((depth, tokens[at + 1].text));
                }
                _ => {}
            }
            let starts = matches!(text, "crate" | "super" | "self")
                && tokens.get(at + 1).is_some_and(|token| token.text == "::")
                && (at == 0 || tokens[at - 1].text != "::");
            if starts {
                let mut here = self.module.clone();
                here.extend(inline.iter().map(|(_, name)| (*name).to_owned()));
                tree(&tokens[at..], &here, &mut found);
            }
        }
        found
    }
}

/// Why `own` may not use `target`, if it may not.
fn broken_rung(own: &str, target: &str) -> Option<String> {
    let rung = |module| LADDER.iter().position(|rung| rung.contains(&module));
    match (rung(own), rung(target)) {
        (None, _) => Some(format!("`{own}` has no rung on the ladder")),
        (_, None) if target == "engines" => Some("nothing uses engines but the command line".to_owned()),
        (_, None) => Some(format!("`{target}` is no module; what lib.rs names again is for users")),
        (Some(own_rung), Some(rung)) if rung == own_rung => Some(format!("`{own}` and `{target}` never meet")),
        (Some(own_rung), Some(rung)) if rung > own_rung => Some(format!("`{target}` stands above `{own}`")),
        _ => None,
    }
}

/// Reads a path or a tree of paths at the start of `tokens`, and adds each, from the crate's root, to `found`. `base`
/// is what the path is relative to. Returns how many tokens it took.
fn tree(tokens: &[Token<'_>], base: &[String], found: &mut Vec<(usize, Vec<String>)>) -> usize {
    let mut path = base.to_vec();
    let mut at = 0;
    while let Some(token) = tokens.get(at) {
        match token.text {
            "crate" => path.clear(),
            "super" => drop(path.pop()),
            "self" => {}
            "{" => {
                at += 1;
                while tokens.get(at).is_some_and(|token| token.text != "}") {
                    at += tree(&tokens[at..], &path, found).max(1);
                    at += usize::from(tokens.get(at).is_some_and(|token| token.text == ","));
                }
                return at + 1;
            }
            name if is_word(name) || name == "*" => path.push(name.to_owned()),
            _ => break,
        }
        at += 1;
        if tokens.get(at).is_some_and(|token| token.text == "::") {
            at += 1;
            continue;
        }
        break;
    }
    if at > 0 {
        found.push((tokens[0].line, path));
        if tokens.get(at).is_some_and(|token| token.text == "as") {
            at += 2;
        }
    }
    at
}

fn is_word(text: &str) -> bool {
    text.starts_with(|c: char| c.is_alphabetic() || c == '_')
}

/// How many tokens the item at the start of `tokens` takes, if it is compiled for tests only.
fn test_item(tokens: &[Token<'_>]) -> Option<usize> {
    let text = |at: usize| tokens.get(at).map_or("", |token| token.text);
    let cfg = text(0) == "#" && text(1) == "[" && text(2) == "cfg" && text(3) == "(";
    let test = text(4) == "test" && text(5) == ")" || text(4) == "all" && text(5) == "(" && text(6) == "test";
    if !cfg || !test {
        return None;
    }
    // This attribute and those behind it.
    let mut at = 0;
    while text(at) == "#" {
        let mut depth = 0;
        at += 1;
        while at < tokens.len() {
            depth += i32::from(text(at) == "[") - i32::from(text(at) == "]");
            at += 1;
            if depth == 0 {
                break;
            }
        }
    }
    item_end(&tokens[at..], true).map(|len| at + len)
}

/// How many tokens the item at the start of `tokens` takes. With `fields`, it may be a field or an arm, which a comma
/// ends.
fn item_end(tokens: &[Token<'_>], fields: bool) -> Option<usize> {
    let text = |at: usize| tokens.get(at).map_or("", |token| token.text);
    let mut head = usize::from(text(0) == "pub");
    if head == 1 && text(1) == "(" {
        head = tokens.iter().position(|token| token.text == ")")? + 1;
    }
    let semicolon = match text(head) {
        "const" => !matches!(text(head + 1), "fn" | "async" | "unsafe" | "extern"),
        word => matches!(word, "use" | "static" | "type" | "let"),
    };
    let words = ["async", "const", "enum", "extern", "fn", "impl", "mod", "struct", "trait", "unsafe"];
    let item = semicolon || words.contains(&text(head));
    let mut depth = 0;
    for (at, token) in tokens.iter().enumerate() {
        match token.text {
            "{" | "(" | "[" => depth += 1,
            "}" | ")" | "]" => {
                depth -= 1;
                if depth == 0 && token.text == "}" && !semicolon {
                    return Some(at + 1);
                }
            }
            ";" if depth == 0 => return Some(at + 1),
            "," if depth == 0 && fields && !item => return Some(at + 1),
            _ => {}
        }
    }
    None
}

fn tokens(code: &str) -> Vec<Token<'_>> {
    let mut found = Vec::new();
    for (line, text) in code.lines().enumerate() {
        let mut rest = text.trim_start();
        while let Some(first) = rest.chars().next() {
            let word = |c: char| c.is_alphanumeric() || c == '_';
            let len = match first {
                c if word(c) => rest.find(|c| !word(c)).unwrap_or(rest.len()),
                ':' if rest.starts_with("::") => 2,
                '!' if rest.starts_with("!=") => 2,
                c => c.len_utf8(),
            };
            found.push(Token { text: &rest[..len], line });
            rest = rest[len..].trim_start();
        }
    }
    found
}

/// The text with comments, strings and characters blanked; every line stays where it is.
fn blanked(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    // Whether the character before belongs to a word: then `r"` or `b'` is the end of that word, not a prefix.
    let mut in_word = false;
    while let Some(first) = rest.chars().next() {
        let len = literal(rest, in_word).unwrap_or(0);
        if len > 0 {
            out.extend(rest[..len].chars().map(|c| if c == '\n' { '\n' } else { ' ' }));
            rest = &rest[len..];
            in_word = false;
            continue;
        }
        out.push(first);
        in_word = first.is_alphanumeric() || first == '_';
        rest = &rest[first.len_utf8()..];
    }
    out
}

/// The length of the comment or literal at the start of `text`, if there is one.
fn literal(text: &str, in_word: bool) -> Option<usize> {
    if text.starts_with("//") {
        return Some(text.find('\n').unwrap_or(text.len()));
    }
    if text.starts_with("/*") {
        return Some(block_comment(text));
    }
    let bare = if in_word { text } else { text.trim_start_matches(['b', 'c']) };
    let prefix = text.len() - bare.len();
    if prefix <= 1 && !in_word {
        let hashes = bare.strip_prefix('r').map(|raw| raw.len() - raw.trim_start_matches('#').len());
        if let Some(hashes) = hashes
            && bare[1 + hashes..].starts_with('"')
        {
            let close = format!("\"{}", "#".repeat(hashes));
            let open = prefix + hashes + 2;
            return Some(text[open..].find(&close).map_or(text.len(), |at| open + at + close.len()));
        }
    }
    if prefix <= 1 && bare.starts_with('"') {
        return Some(prefix + quoted(bare, '"')?);
    }
    // A lifetime is no character: 'a, but 'a' and '\n'.
    let mut characters = bare.strip_prefix('\'').filter(|_| prefix <= 1)?.chars();
    let (first, second) = (characters.next()?, characters.next()?);
    (first == '\\' || second == '\'').then(|| quoted(bare, '\'')).flatten().map(|len| prefix + len)
}

fn block_comment(text: &str) -> usize {
    let (mut depth, mut at) = (0, 0);
    while at < text.len() {
        match &text.as_bytes()[at..] {
            [b'/', b'*', ..] => (depth, at) = (depth + 1, at + 2),
            [b'*', b'/', ..] => (depth, at) = (depth - 1, at + 2),
            _ => at += 1,
        }
        if depth == 0 {
            return at;
        }
    }
    text.len()
}

/// The length of the literal that begins with `quote`.
fn quoted(text: &str, quote: char) -> Option<usize> {
    let mut escaped = false;
    for (at, c) in text.char_indices().skip(1) {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            c if c == quote => return Some(at + c.len_utf8()),
            _ => {}
        }
    }
    None
}

/// The checker, on code made to offend.
mod checker {
    use super::*;

    fn check(path: &str, text: &str) -> Vec<String> {
        offences(&[(path.to_owned(), format!("//! Words.\n{text}"))])
    }

    #[track_caller]
    fn offends(path: &str, text: &str, words: &[&str]) {
        let found = check(path, text);
        assert_eq!(found.len(), 1, "{text}\n{found:?}");
        for word in words {
            assert!(found[0].contains(word), "{word} is not in {}", found[0]);
        }
    }

    #[track_caller]
    fn passes(path: &str, text: &str) {
        assert_eq!(check(path, text), Vec::<String>::new(), "{text}");
    }

    #[test]
    fn an_upward_import_is_seen_in_every_shape() {
        let above = ["src/journal/batch.rs:2", "stands above"];
        offends("journal/batch.rs", "use crate::runtime::stage::Stage;", &above);
        offends("journal/batch.rs", "pub(crate) use crate::{lsn::Lsn, runtime::{stage}};", &above[1..]);
        offends("journal/batch.rs", "fn f() -> crate::log::Log { g() }", &above);
        offends("journal/batch.rs", "use super::super::runtime::index;", &above);
        offends("journal/mod.rs", "use super::{lsn, log as other};", &above[1..]);
        offends("journal/mod.rs", "mod on {\n    use super::super::read::cursor;\n}", &["src/journal/mod.rs:3"]);
        offends("journal/mod.rs", "fn f() {\n    let a = super::read::cursor::clip(b);\n}", &["mod.rs:3"]);
        offends("format/mod.rs", "use crate::options::Limits;", &["stands above"]);
        offends("log.rs", "use crate::Lsn;", &["is for users"]);
    }

    #[test]
    fn siblings_never_meet() {
        offends("journal/batch.rs", "use crate::disk::Method;", &["never meet"]);
        offends("disk/ring/mod.rs", "use crate::journal::Place;", &["never meet"]);
        offends("stats.rs", "use crate::error::Op;", &["never meet"]);
    }

    #[test]
    fn downward_imports_and_words_about_others_pass() {
        passes("runtime/driver.rs", "use crate::{disk::Disk, journal::{Journal, Next}};\nuse super::stage::Stage;");
        passes("runtime/append.rs", "/// As [`Log::append`](crate::log::Log::append).\nfn f() {}");
        passes("options.rs", "use crate::format;\nuse crate::error::OptionsError;");
        passes("disk/ring/key.rs", "use super::super::Notify;\nuse self::other::Thing;");
        passes("lib.rs", "pub use log::Log;\npub use crate::read::reader::Reader;");
        passes("journal/batch.rs", "#[cfg(test)]\nmod tests {\n    use crate::disk::Method;\n}");
        passes("journal/batch.rs", "pub(crate) fn f() {}\npub(in crate::journal) fn g() {}");
    }

    #[test]
    fn engines_and_the_command_line_keep_to_their_doors() {
        passes("engines/mod.rs", "use crate::disk::Buffer;\nuse crate::log::Log;");
        offends("engines/mod.rs", "use crate::runtime::driver::Driver;", &["engines do not use it"]);
        offends("log.rs", "use crate::engines::Engine;", &["nothing uses engines"]);
        passes("bin/ringwal/main.rs", "use crate::args::Args;\nuse ringwal::Log;");
        offends("bin/ringwal/main.rs", "use ringwal::harness::Life;", &["it is for tests"]);
    }

    #[test]
    fn a_module_without_a_rung_is_named() {
        offends("shard.rs", "use crate::log::Log;", &["`shard` has no rung"]);
    }

    #[test]
    fn unsafe_is_code_and_lives_in_disk() {
        offends("runtime/stage.rs", "fn f() { unsafe { g() } }", &["outside disk/"]);
        offends("runtime/stage.rs", "#[cfg(test)]\nmod tests { unsafe fn f() {} }", &["outside disk/"]);
        passes("disk/ring/mod.rs", "unsafe fn f() {}");
        passes("log.rs", "// unsafe\n/* unsafe /* unsafe */ unsafe */\nconst A: &str = \"unsafe \\\" unsafe\";");
        passes("log.rs", "const A: &str = r#\"unsafe \" unsafe\"#; #[deny(unsafe_code)] fn f<'a>(a: &'a str) {}");
        offends("log.rs", "const A: char = '\"'; unsafe fn f<'a>() {} const B: char = '\"';", &["outside disk/"]);
        offends("log.rs", "const A: &[u8] = br\"\\\"; unsafe fn f() {} const B: u8 = b'\\'';", &["outside disk/"]);
    }

    #[test]
    fn clocks_and_unfinished_code_are_seen() {
        offends("journal/mod.rs", "fn f() { let a = std::time::Instant::now(); }", &["time is an argument"]);
        offends("read/tail.rs", "fn f() { SystemTime::now(); }", &["time is an argument"]);
        passes("runtime/driver.rs", "fn f() { Instant::now(); }");
        passes("journal/mod.rs", "#[cfg(test)]\nfn f() { Instant::now(); }\nfn g(now: Instant) { now.since(now); }");
        offends("log.rs", "fn f() { todo!() }", &["`todo!`"]);
        offends("log.rs", "fn f() { unimplemented!(\"later\") }", &["`unimplemented!`"]);
        offends("log.rs", "fn f() { dbg!(1); }", &["`dbg!`"]);
        passes("log.rs", "fn f() { let todo = 1; assert!(todo != 2, \"todo!\"); }");
    }

    #[test]
    fn long_functions_and_files_are_seen() {
        let body = |lines: usize| "    g();\n".repeat(lines - 2);
        passes("log.rs", &format!("fn f() {{\n{}}}", body(70)));
        offends("log.rs", &format!("fn f() {{\n{}}}", body(71)), &["`f` has 71 lines", "log.rs:2"]);
        offends("log.rs", &format!("impl A {{\nfn f<T: B>(\n    a: [u8; 4],\n) {{\n{}}}\n}}", body(69)), &["`f`"]);
        passes("log.rs", &format!("#[cfg(test)]\nmod tests {{\nfn f() {{\n{}}}\n}}", body(90)));
        passes("log.rs", &format!("trait A {{\n    fn f();\n    fn g(h: fn(u8));\n{}}}", "    fn i();\n".repeat(80)));
        offends("log.rs", &"const A: u8 = 1;\n".repeat(600), &["601 lines"]);
        passes("log.rs", &"const A: u8 = 1;\n".repeat(599));
        let tests = format!("#[cfg(test)]\nmod tests {{\n{}}}", "    const A: u8 = 1;\n".repeat(900));
        passes("log.rs", &format!("{}{tests}", "const A: u8 = 1;\n".repeat(500)));
    }

    #[test]
    fn modules_for_tests_are_known_by_their_declaration() {
        let long = format!("//! Tests.\n{}", "const A: u8 = 1;\n".repeat(700));
        let child = ("disk/file/tests.rs".to_owned(), long.clone());
        let parent = |text: &str| ("disk/file.rs".to_owned(), format!("//! Words.\n{text}"));
        assert_eq!(offences(&[parent("#[cfg(test)]\nmod tests;"), child.clone()]), Vec::<String>::new());
        assert_eq!(offences(&[parent("mod tests;"), child.clone()]).len(), 1);
        // Built for users who test, too: held to everything.
        assert_eq!(offences(&[parent("#[cfg(any(test, feature = \"sim\"))]\nmod tests;"), child]).len(), 1);
    }

    #[test]
    fn a_file_says_what_it_is() {
        let text = "use std::fmt;\n//! Late.\n";
        let found = offences(&[("log.rs".to_owned(), text.to_owned())]);
        assert_eq!(found, ["src/log.rs:1: does not open with `//!`"]);
    }
}
