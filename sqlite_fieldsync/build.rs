//! Keeps the loadable extension in its process once it is loaded.
//!
//! SQLite unloads an extension with the last connection that loaded it, and a thread that has used this one may end later: what
//! Rust cleans up then must still be there. (SQLite's own way, SQLITE_OK_LOAD_PERMANENTLY, is an error to
//! `sqlite3_auto_extension`.)

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    if matches!(std::env::var("CARGO_CFG_TARGET_OS").as_deref(), Ok("linux" | "android")) {
        println!("cargo::rustc-link-arg-cdylib=-Wl,-z,nodelete");
    }
}
