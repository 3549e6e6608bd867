//! No start-up code and no libraries but the C library's memcpy and its like, which compiled Rust takes for granted.

fn main() {
    println!("cargo::rustc-link-arg-bins=-nostartfiles");
    println!("cargo::rustc-link-arg-bins=-lc");
}
