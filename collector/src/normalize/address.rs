//! Addresses in names: each would be a function of its own.

use super::{Edit, Taken, hex};

/// Stands for code of no known module, as in `perf script`.
const UNKNOWN: &str = "[unknown]";

/// `0x7f12ab34cd56` becomes `[unknown]`, what `perf script` writes for code
/// that it knows nothing of.
pub(super) fn alone(name: &str) -> Option<(String, Taken)> {
    let address = number(name)?;
    Some((UNKNOWN.to_owned(), Taken::Address(address)))
}

/// Like [`alone`]; `libc.so.6+0x1234` becomes `[libc.so.6]`, as in
/// `stackcollapse-perf.pl` and inferno (`collapse/perf.rs`).
pub(super) fn of_module(name: &str) -> Option<(String, Taken)> {
    if let Some(found) = alone(name) {
        return Some(found);
    }
    let (module, offset) = split_offset(name)?;
    Some((stand_in(module), Taken::ModuleOffset(offset)))
}

/// Like [`alone`]; `main+0x1a` and `do_idle+0x1a/0x2f0` lose the offset, as in
/// inferno. What stands before it is a module if it looks like one: a library,
/// a path or a stand-in.
pub(super) fn of_symbol(name: &str) -> Option<(String, Taken)> {
    if let Some(found) = alone(name) {
        return Some(found);
    }
    let (symbol, offset) = split_offset(name)?;
    let is_module = symbol.starts_with(['/', '['])
        || symbol.ends_with(".so")
        || symbol.rsplit('/').next()?.contains(".so.");
    if is_module {
        return Some((stand_in(symbol), Taken::ModuleOffset(offset)));
    }
    Some((symbol.to_owned(), Taken::FunctionOffset(offset)))
}

/// `#<Class:0x000055c8a1b2c3d4>#call`: Ruby names a class without a name by its
/// address (`make_temporary_path`, `variable.c`).
pub(super) fn of_class(before: &str, rest: &str) -> Option<Edit> {
    let address = rest.strip_prefix(":0x")?;
    let length = hex(address, 8)?;
    let is_class = before.ends_with("#<Class") || before.ends_with("#<Module");
    (is_class && address.get(length..)?.starts_with('>'))
        .then_some(length + 3)
        .and_then(Edit::cut)
}

/// Splits `NAME+0xOFFSET` and `NAME+0xOFFSET/0xSIZE`.
fn split_offset(name: &str) -> Option<(&str, u64)> {
    let (stem, offset) = name.rsplit_once("+0x")?;
    let offset = match offset.split_once("/0x") {
        Some((offset, size)) => {
            hexadecimal(size)?;
            offset
        }
        None => offset,
    };
    let offset = hexadecimal(offset)?;
    (!stem.is_empty()).then_some((stem, offset))
}

fn number(text: &str) -> Option<u64> {
    hexadecimal(text.strip_prefix("0x")?)
}

fn hexadecimal(digits: &str) -> Option<u64> {
    // `from_str_radix` takes a sign too.
    let is_plain = digits.bytes().all(|byte| byte.is_ascii_hexdigit());
    u64::from_str_radix(digits, 16).ok().filter(|_| is_plain)
}

/// `[module]` without its folder.
fn stand_in(module: &str) -> String {
    if module.starts_with('[') && module.ends_with(']') {
        return module.to_owned();
    }
    let file = module.rsplit('/').find(|part| !part.is_empty());
    format!("[{}]", file.unwrap_or(module))
}
