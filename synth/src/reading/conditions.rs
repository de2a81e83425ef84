//! The rule against branches that never vary: emission has already decided them.

use proc_macro2::Span;
use syn::{BinOp, Expr, ExprBinary, ExprPath, spanned::Spanned};

use super::visit::Reader;

/// Reports `condition`, or the parts of it that `&&` and `||` join, where it is constant.
pub fn condition(reader: &mut Reader<'_>, condition: &Expr, keyword: &str) {
    match condition {
        Expr::Paren(inner) => self::condition(reader, &inner.expr, keyword),
        Expr::Binary(ExprBinary { op: BinOp::And(_) | BinOp::Or(_), left, right, .. }) => {
            self::condition(reader, left, keyword);
            self::condition(reader, right, keyword);
        }
        Expr::Let(binding) => report(reader, &binding.expr, binding.span(), keyword),
        _ => report(reader, condition, condition.span(), keyword),
    }
}

fn report(reader: &mut Reader<'_>, condition: &Expr, span: Span, keyword: &str) {
    if is_constant(reader, condition) {
        let cure = match keyword {
            "while" => "write `loop`, or leave the loop out",
            _ => "emit only the branch that is taken",
        };
        reader.push(span, "constant-condition", format!("this `{keyword}` always goes the same way: {cure}"));
    }
}

/// Whether an expression consists of literals and constants alone.
///
/// Generic parameters are no constants, since one source may be compiled for several of their values. Neither
/// is the result of a function call: a call is written where the value is to be found out.
fn is_constant(reader: &Reader<'_>, expr: &Expr) -> bool {
    match expr {
        Expr::Lit(_) => true,
        Expr::Path(path) => is_constant_path(reader, path),
        Expr::Unary(expr) => is_constant(reader, &expr.expr),
        Expr::Paren(expr) => is_constant(reader, &expr.expr),
        Expr::Group(expr) => is_constant(reader, &expr.expr),
        Expr::Cast(expr) => is_constant(reader, &expr.expr),
        Expr::Reference(expr) => is_constant(reader, &expr.expr),
        Expr::Field(expr) => is_constant(reader, &expr.base),
        Expr::Binary(expr) => is_constant(reader, &expr.left) && is_constant(reader, &expr.right),
        Expr::Index(expr) => is_constant(reader, &expr.expr) && is_constant(reader, &expr.index),
        Expr::Range(expr) => {
            [&expr.start, &expr.end].into_iter().flatten().all(|end| is_constant(reader, end))
        }
        Expr::Tuple(expr) => expr.elems.iter().all(|expr| is_constant(reader, expr)),
        Expr::Array(expr) => expr.elems.iter().all(|expr| is_constant(reader, expr)),
        Expr::MethodCall(call) => {
            is_constant(reader, &call.receiver) && call.args.iter().all(|expr| is_constant(reader, expr))
        }
        Expr::Macro(call) => call.mac.path.is_ident("cfg"),
        _ => false,
    }
}

fn is_constant_path(reader: &Reader<'_>, path: &ExprPath) -> bool {
    let segments = &path.path.segments;
    let (Some(first), Some(last)) = (segments.first(), segments.last()) else { return false };
    let is_parameter = reader.parameters.iter().any(|names| names.contains(&first.ident.to_string()));
    let name = last.ident.to_string();
    let is_screaming = name.chars().all(|c| c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_')
        && name.contains(|c: char| c.is_ascii_uppercase());
    is_screaming && !is_parameter && !reader.facts.is_static(&name)
}
