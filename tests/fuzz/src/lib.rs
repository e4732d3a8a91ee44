//! Fuzz targets for ringwal, each a function of bytes that panics when something is wrong. A panic that begins with the
//! name of an assertion (A1 to A11, as in the rest of the proof) is a broken promise; any other is a panic of the library.
//!
//! | target | what |
//! |---|---|
//! | [`record`], [`batch`], [`segment`] | the decoders, one by one |
//! | [`directory`] | a real log, damaged: verified, read, opened |
//! | [`recovery`] | a directory made of hostile bytes: opened, appended to, opened again |
//! | [`shipping`] | frames into both ends of a connection, and a real connection that somebody meddles with |
//!
//! Plain bytes seldom get behind a checksum, so a share of the cases has them computed anew.

mod accident;
pub mod batch;
pub mod directory;
mod forge;
mod frame;
mod gauge;
mod input;
mod layout;
mod life;
mod logs;
mod meddled;
pub mod record;
pub mod recovery;
pub mod segment;
pub mod shipping;
