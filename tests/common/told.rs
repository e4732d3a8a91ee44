//! Whether an error says what it has to: one line that names the path.

use std::fmt::Display;
use std::path::Path;

/// One line that names the path.
pub(crate) fn told_well(error: &impl Display, path: &Path) {
    let text = error.to_string();
    assert!(!text.contains('\n') && text.len() < 400, "{text}");
    assert!(text.contains(path.to_str().unwrap()), "{text} does not name {}", path.display());
}
