//! Names are real unless said otherwise: of rustc 1.95 (both manglings, by
//! `rustc_demangle` and `llvm-cxxfilt`), g++ 12.2 (by `c++filt` and
//! `llvm-cxxfilt`), Go 1.26.8 (`go tool nm`), OpenJDK 17 (`jcmd
//! Compiler.perfmap`), Node 20 (`--perf-basic-prof`) and Linux 6.18
//! (`/proc/kallsyms`). Names of other versions come from bug reports and from
//! the sources that write them.

use proptest::prelude::*;

use super::*;

/// A row: kind, name, normal form, names of the rules that changed it.
type Row = (FrameKind, &'static str, &'static str, &'static str);

use FrameKind::{Go, Jvm, Kernel, Native, Node, Python, Ruby, Synthetic, Unsymbolized};

fn names(rules: Rules) -> String {
    let names: Vec<&str> = rules.iter().map(Rule::name).collect();
    names.join(" ")
}

fn check(rules: Rules, rows: &[Row]) {
    for &(kind, name, expected, applied) in rows {
        let got = normalize(kind, name, rules);
        assert_eq!(got.name, expected, "{name}");
        assert_eq!(names(got.applied), applied, "{name}");
        let is_borrowed = matches!(got.name, Cow::Borrowed(_));
        assert_eq!(is_borrowed, applied.is_empty(), "{name}");
        let again = normalize(kind, expected, rules);
        assert_eq!((&*again.name, again.applied), (expected, Rules::NONE));
    }
}

const RUST: &[Row] = &[
    (
        Native,
        "r::main::{{closure}}::h08c844f2f721e9d7",
        "r::main::{{closure}}",
        "rust_hash",
    ),
    (
        Native,
        "r::P<u8>::go::h0052abb35e9afee7",
        "r::P<u8>::go",
        "rust_hash",
    ),
    (
        Native,
        "<hashbrown::raw::RawTable<T,A> as core::ops::drop::Drop>::drop::ha21bf984212fcb1f",
        "<hashbrown::raw::RawTable<T,A> as core::ops::drop::Drop>::drop",
        "rust_hash",
    ),
    (
        Native,
        "core::ops::function::FnOnce::call_once{{vtable.shim}}::h1a2ac23912b365b0",
        "core::ops::function::FnOnce::call_once{{vtable.shim}}",
        "rust_hash",
    ),
    (
        Native,
        "_ZN3std2io4Read11read_to_end17hb85a0f6802e14499E",
        "_ZN3std2io4Read11read_to_endE",
        "rust_hash",
    ),
    (
        Native,
        "_ZN3std2rt10lang_start17ha86af84d9cc65291E.llvm.1535116653870106707",
        "_ZN3std2rt10lang_startE",
        "rust_hash compiler_suffix",
    ),
    (
        Native,
        "r[4dd80272b5a2d1fc]::apply::<u8, u32>",
        "r::apply::<u8, u32>",
        "rust_hash",
    ),
    (
        Native,
        "r[4dd80272b5a2d1fc]::main::{closure#2}::{closure#0}",
        "r::main::{{closure}}::{{closure}}",
        "rust_hash rust_number",
    ),
    (
        Native,
        "<r[4dd80272b5a2d1fc]::main::{closure#2} as core[c1f1a4ba060b9bfa]::ops::function::FnOnce<(u32,)>>::call_once::{shim:vtable#0}",
        "<r::main::{{closure}} as core::ops::function::FnOnce<(u32,)>>::call_once::{shim:vtable}",
        "rust_hash rust_number",
    ),
    (
        Native,
        "<std[e28293b1aa0f68bd]::hash::random::RandomState>::new::KEYS::{K#0}::{closure#1}::__RUST_STD_INTERNAL_VAL",
        "<std::hash::random::RandomState>::new::KEYS::{K}::{{closure}}::__RUST_STD_INTERNAL_VAL",
        "rust_hash rust_number",
    ),
    (
        Native,
        "std::rt::lang_start::<()>::{closure#0} (.llvm.1535116653870106707)",
        "std::rt::lang_start::<()>::{{closure}}",
        "rust_number compiler_suffix",
    ),
    // Of DWARF, where it is a path of namespaces.
    (Native, "r::{impl#3}::fmt", "r::{impl}::fmt", "rust_number"),
    (
        Native,
        "{closure_env#0}<char>",
        "{closure_env}<char>",
        "rust_number",
    ),
    // No hashes: too short, not at the end of a crate's name, capitals.
    (Native, "a::h0123456789abcde", "a::h0123456789abcde", ""),
    (Native, "a::h0123456789ABCDEF", "a::h0123456789ABCDEF", ""),
    (Native, "::h0123456789abcdef", "::h0123456789abcdef", ""),
    (Native, "r::arr::<[u8; 3]>", "r::arr::<[u8; 3]>", ""),
    (
        Native,
        "table[4dd80272b5a2d1fc]",
        "table[4dd80272b5a2d1fc]",
        "",
    ),
    (Native, "_ZN3std2io4ReadE", "_ZN3std2io4ReadE", ""),
];

#[test]
fn hashes_and_numbers_of_rust_go() {
    check(Rules::DEFAULT, RUST);
}

#[test]
fn both_manglings_of_rust_give_one_name() {
    for (old, new) in [
        (
            "r::main::{{closure}}::h08c844f2f721e9d7",
            "r[4dd80272b5a2d1fc]::main::{closure#0}",
        ),
        ("r::call::h9b923be3322dfd6f", "r[4dd80272b5a2d1fc]::call"),
    ] {
        let [old, new] =
            [old, new].map(|name| normalize(Native, name, Rules::DEFAULT).name.into_owned());
        assert_eq!(old, new);
    }
}

const SUFFIXES: &[Row] = &[
    (Native, "work.constprop.0", "work", "compiler_suffix"),
    (Native, "main.cold", "main", "compiler_suffix"),
    (
        Native,
        "_ZNK1PcvSt6vectorIiSaIiEEEv.isra.0.cold",
        "_ZNK1PcvSt6vectorIiSaIiEEEv",
        "compiler_suffix",
    ),
    (
        Native,
        "(anonymous namespace)::hidden(int) [clone .cold]",
        "(anonymous namespace)::hidden(int)",
        "compiler_suffix",
    ),
    (
        Native,
        "P::operator std::vector<int, std::allocator<int> >() const [clone .isra.0] [clone .cold]",
        "P::operator std::vector<int, std::allocator<int> >() const",
        "compiler_suffix",
    ),
    (
        Native,
        "P::operator>>(int) (.isra.0)",
        "P::operator>>(int)",
        "compiler_suffix",
    ),
    (
        Native,
        "Q<((5) > (2))> ex<5>(char (&) [5]) (.isra.0)",
        "Q<((5) > (2))> ex<5>(char (&) [5])",
        "compiler_suffix",
    ),
    (
        Native,
        "f.part.0.constprop.1.lto_priv.3",
        "f",
        "compiler_suffix",
    ),
    (
        Native,
        "f.__uniq.305189346284498261041214",
        "f",
        "compiler_suffix",
    ),
    (Native, "memcpy.localalias", "memcpy", "compiler_suffix"),
    (
        Kernel,
        "wait_for_initramfs.cold",
        "wait_for_initramfs",
        "compiler_suffix",
    ),
    (
        Kernel,
        "class_preempt_notrace_destructor.isra.0",
        "class_preempt_notrace_destructor",
        "compiler_suffix",
    ),
    // Functions of their own, and no suffixes.
    (Native, "main._omp_fn.0", "main._omp_fn.0", ""),
    (Native, "memcpy.avx2", "memcpy.avx2", ""),
    (Native, "completed.0", "completed.0", ""),
    (Native, ".cold", ".cold", ""),
    (Native, "f.part", "f.part", ""),
    (Native, "foo ()", "foo ()", ""),
    (Native, "f() [clone ]", "f() [clone ]", ""),
    (Native, "f() [clone .mine]", "f() [clone .mine]", ""),
    (Go, "main.cold", "main.cold", ""),
];

#[test]
fn suffixes_of_compilers_go() {
    check(Rules::DEFAULT, SUFFIXES);
}

const CPP: &[Row] = &[
    (
        Native,
        "Tagged[abi:v15007]::go(int)",
        "Tagged::go(int)",
        "abi_version",
    ),
    (
        Native,
        "std::__1::thread::join[abi:ne180100]()",
        "std::__1::thread::join()",
        "abi_version",
    ),
    (Native, "tag[abi:cxx11]()", "tag[abi:cxx11]()", ""),
    (
        Native,
        "(anonymous namespace)::hidden(int)",
        "(anonymous namespace)::hidden(int)",
        "",
    ),
    (
        Native,
        "operator\"\" _km(unsigned long long)",
        "operator\"\" _km(unsigned long long)",
        "",
    ),
    (
        Native,
        "int call<main::{lambda(int)#2}>(main::{lambda(int)#2})",
        "int call<main::{lambda(int)#2}>(main::{lambda(int)#2})",
        "",
    ),
    (
        Native,
        "decltype ({parm#1}<{parm#2}) ex<int, int>(int, int)",
        "decltype ({parm#1}<{parm#2}) ex<int, int>(int, int)",
        "",
    ),
];

#[test]
fn versions_of_the_library_go_and_lambdas_stay() {
    check(Rules::DEFAULT, CPP);
}

#[test]
fn numbers_of_lambdas_go_when_asked() {
    check(
        Rules::DEFAULT.with(Rule::CppLambdaNumber),
        &[
            (
                Native,
                "int call<main::{lambda(auto:1)#4}>(main::{lambda(auto:1)#4}) [clone .constprop.0]",
                "int call<main::{lambda(auto:1)}>(main::{lambda(auto:1)})",
                "compiler_suffix cpp_lambda_number",
            ),
            (
                Native,
                "int call<main::'lambda0'(int)>(main::'lambda0'(int))",
                "int call<main::'lambda'(int)>(main::'lambda'(int))",
                "cpp_lambda_number",
            ),
            (
                Native,
                "main::$_0::operator()() const",
                "main::$_::operator()() const",
                "cpp_lambda_number",
            ),
            (Native, "{parm#1}", "{parm#1}", ""),
            (Native, "cash::$_0x", "cash::$_0x", ""),
        ],
    );
}

const GENERICS: &[(&str, &str)] = &[
    ("P::operator->()", "P::operator->()"),
    ("P::operator->*(int)", "P::operator->*(int)"),
    (
        "P::operator<(P const&) const",
        "P::operator<(P const&) const",
    ),
    ("P::operator<=>(int) const", "P::operator<=>(int) const"),
    ("P::operator>>(int)", "P::operator>>(int)"),
    ("P::operator[](int)", "P::operator[](int)"),
    (
        "bool operator< <short>(P const&, short)",
        "bool operator< <_>(P const&, short)",
    ),
    (
        "bool operator<< <unsigned int>(P const&, unsigned int)",
        "bool operator<< <_>(P const&, unsigned int)",
    ),
    (
        "bool operator<<short>(P const&, short)",
        "bool operator<<_>(P const&, short)",
    ),
    (
        "bool operator<<<short>(P const&, short)",
        "bool operator<<<_>(P const&, short)",
    ),
    (
        "double P::operator()<double>(double, int) const",
        "double P::operator()<_>(double, int) const",
    ),
    (
        "P::operator std::vector<int, std::allocator<int> >() const",
        "P::operator std::vector<_>() const",
    ),
    (
        "Q<((5)>(2))> ex<5>(char (&) [5])",
        "Q<_> ex<_>(char (&) [5])",
    ),
    (
        "Q<((5) > (2))> ex<5>(char (&) [5])",
        "Q<_> ex<_>(char (&) [5])",
    ),
    (
        "decltype ({parm#1}<{parm#2}) ex<int, int>(int, int)",
        "decltype ({parm#1}<{parm#2}) ex<_>(int, int)",
    ),
    (
        "decltype ((({parm#1}>{parm#2}))?({parm#1}<<(1)) : {parm#2}) ey<int, int>(int, int)",
        "decltype ((({parm#1}>{parm#2}))?({parm#1}<<(1)) : {parm#2}) ey<_>(int, int)",
    ),
    (
        "decltype((fp) < (fp0)) ex<int, int>(int, int)",
        "decltype((fp) < (fp0)) ex<_>(int, int)",
    ),
    (
        "decltype (({parm#1}->f)()) ez<S>(S*)",
        "decltype (({parm#1}->f)()) ez<_>(S*)",
    ),
    (
        "void tk<int (S::*)()>(int (S::*)())",
        "void tk<_>(int (S::*)())",
    ),
    (
        "std::thread::_State_impl<std::thread::_Invoker<std::tuple<main::{lambda()#5}> > >::~_State_impl()",
        "std::thread::_State_impl<_>::~_State_impl()",
    ),
    ("tag[abi:cxx11]<int>()", "tag[abi:cxx11]<_>()"),
    ("empty<>()", "empty<>()"),
    (
        "<alloc::vec::into_iter::IntoIter<T,A> as core::ops::drop::Drop>::drop",
        "<alloc::vec::into_iter::IntoIter<_> as core::ops::drop::Drop>::drop",
    ),
    ("r::apply::<u8, u32>", "r::apply::<_>"),
    (
        "std::sys::backtrace::__rust_begin_short_backtrace::<fn(u8) -> u32, ()>",
        "std::sys::backtrace::__rust_begin_short_backtrace::<_>",
    ),
    (
        "<rustc_demangle::v0::Printer>::print_sep_list::<<rustc_demangle::v0::Printer>::print_const::{{closure}}>",
        "<rustc_demangle::v0::Printer>::print_sep_list::<_>",
    ),
    (
        "<<std::sync::once::Once>::call_once<std::rt::cleanup::{{closure}}>::{{closure}} as core::ops::function::FnOnce<(&std::sync::once::OnceState,)>>::call_once",
        "<<std::sync::once::Once>::call_once<_>::{{closure}} as core::ops::function::FnOnce<_>>::call_once",
    ),
    (
        "<dyn core::ops::function::Fn<(u32,), Output = u32> as r::Call>::go",
        "<dyn core::ops::function::Fn<_> as r::Call>::go",
    ),
    // Made up: a character as a constant argument.
    ("r::quote::<'<'>", "r::quote::<_>"),
    (
        "void java.lang.Object.<init>()",
        "void java.lang.Object.<init>()",
    ),
    // Damaged: nothing is known of them.
    ("std::vector<int", "std::vector<int"),
    ("f<int)>(", "f<int)>("),
    ("a > b", "a > b"),
];

#[test]
fn type_arguments_go_when_asked_and_operators_stay() {
    let rules = Rules::NONE.with(Rule::NativeGenerics);
    for &(name, expected) in GENERICS {
        let applied = if name == expected {
            ""
        } else {
            "native_generics"
        };
        check(rules, &[(Native, name, expected, applied)]);
        assert_eq!(
            normalize(Native, name, Rules::DEFAULT.without(Rule::RustNumber)).name,
            name
        );
    }
}

/// Names that Go's own profiles show as they are.
const GO_KEPT: &[&str] = &[
    "main.run",
    "main.run.func1",
    "main.run.func1.2",
    "main.run-range1",
    "main.run.deferwrap1",
    "main.run.gowrap2",
    "main.run.gowrap3.run.func1.1.1",
    "main.run.run.Seq.func10.run-range2.func11",
    "example.com/app/v2/lib.(*T).Do-fm",
    "example.com/app/v2/lib.(*T).Do.deferwrap1",
    "example.com/app/v2/lib.init.0",
    "example.com/app/v2/lib.init.1.func1",
    "main.glob..func1",
    "runtime.goexit.abi0",
    "vendor/golang.org/x/net/http2/hpack.(*Decoder).Write",
    "gopkg.in/yaml%2ev3.Unmarshal",
    "type:.eq.main.S",
];

#[test]
fn names_of_go_are_those_of_its_own_profiles() {
    for name in GO_KEPT {
        check(Rules::DEFAULT, &[(Go, name, name, "")]);
    }
    check(
        Rules::DEFAULT,
        &[
            (
                Go,
                "example.com/app/v2/lib.(*L[go.shape.[2]string,go.shape.[]func(int) (int, error)]).Each.func1.1",
                "example.com/app/v2/lib.(*L[...]).Each.func1.1",
                "go_generics",
            ),
            (
                Go,
                "example.com/app/v2/lib.NewL[go.shape.struct { main.a string; main.b int },go.shape.*uint8]",
                "example.com/app/v2/lib.NewL[...]",
                "go_generics",
            ),
            (
                Go,
                "type:.eq.[2]runtime.Frame",
                "type:.eq.[...]runtime.Frame",
                "go_generics",
            ),
            (Go, "main.F[...]", "main.F[...]", ""),
            (Go, "a]b[c", "a]b[c", ""),
            (Go, "[unknown]", "[unknown]", ""),
        ],
    );
}

#[test]
fn numbers_of_go_go_when_asked() {
    check(
        Rules::DEFAULT.with(Rule::GoNumber),
        &[
            (Go, "main.run.func1", "main.run.func#", "go_number"),
            (Go, "main.run.func12.3", "main.run.func#.#", "go_number"),
            (
                Go,
                "main.run.deferwrap1",
                "main.run.deferwrap#",
                "go_number",
            ),
            (Go, "main.run-range1", "main.run-range#", "go_number"),
            (
                Go,
                "main.run.run.Seq.func10.run-range2.func11",
                "main.run.run.Seq.func#.run-range#.func#",
                "go_number",
            ),
            (
                Go,
                "main.run.gowrap3.run.func1.1.1",
                "main.run.gowrap#.run.func#.#.#",
                "go_number",
            ),
            (
                Go,
                "example.com/app/v2/lib.init.0",
                "example.com/app/v2/lib.init.#",
                "go_number",
            ),
            (Go, "main.glob..func1", "main.glob..func#", "go_number"),
            // Somebody's function, a word that goes on, a path.
            (Go, "main.func1", "main.func1", ""),
            (Go, "main.run.func1x", "main.run.func1x", ""),
            (Go, "example.com/a.1/lib.F", "example.com/a.1/lib.F", ""),
        ],
    );
}

#[test]
fn versions_of_go_modules_go_when_asked() {
    check(
        Rules::DEFAULT.with(Rule::GoPath),
        &[
            (
                Go,
                "example.com/app/v2/lib.(*T).Do-fm",
                "example.com/app/lib.(*T).Do-fm",
                "go_path",
            ),
            (
                Go,
                "k8s.io/klog/v2.(*loggingT).output",
                "k8s.io/klog.(*loggingT).output",
                "go_path",
            ),
            (
                Go,
                "vendor/golang.org/x/net/http2/hpack.(*Decoder).Write",
                "golang.org/x/net/http2/hpack.(*Decoder).Write",
                "go_path",
            ),
            (
                Go,
                "example.com/app/vendor/github.com/x/y/v11.F.func1",
                "github.com/x/y.F.func1",
                "go_path",
            ),
            (
                Go,
                "k8s.io/api/core/v1.(*Pod).Marshal",
                "k8s.io/api/core/v1.(*Pod).Marshal",
                "",
            ),
            (Go, "example.com/v2x/lib.F", "example.com/v2x/lib.F", ""),
            (
                Go,
                "main.F[example.com/app/v2/lib.T]",
                "main.F[...]",
                "go_generics",
            ),
        ],
    );
}

const JVM: &[Row] = &[
    (
        Jvm,
        "int W$$Lambda$1/0x00007f8084000a08.applyAsInt(int)",
        "int W$$Lambda.applyAsInt(int)",
        "jvm_hidden",
    ),
    (
        Native,
        "java.lang.Object W$$Lambda$3/0x00007f8084001800.apply(java.lang.Object)",
        "java.lang.Object W$$Lambda.apply(java.lang.Object)",
        "jvm_hidden",
    ),
    (
        Jvm,
        "long java.lang.invoke.LambdaForm$MH/0x00007f8084002400.invoke(java.lang.Object, long)",
        "long java.lang.invoke.LambdaForm$MH.invoke(java.lang.Object, long)",
        "jvm_hidden",
    ),
    // Flight Recorder and async-profiler, JDK 8 and JDK 21.
    (
        Jvm,
        "pkg.ClassName$$Lambda+0x00007f8177090218/543846639.run",
        "pkg.ClassName$$Lambda.run",
        "jvm_hidden",
    ),
    (
        Jvm,
        "java/lang/invoke/LambdaForm$MH.0x0000000800c03000.invoke",
        "java/lang/invoke/LambdaForm$MH.invoke",
        "jvm_hidden",
    ),
    (
        Jvm,
        "Lcom/acme/W$$Lambda$14/1234567890;::run",
        "Lcom/acme/W$$Lambda;::run",
        "jvm_hidden",
    ),
    (
        Jvm,
        "com.acme.W$$Lambda/0x00007f81a0001200.run",
        "com.acme.W$$Lambda.run",
        "jvm_hidden",
    ),
    (
        Jvm,
        "int $Proxy0.go(int)",
        "int $Proxy.go(int)",
        "jvm_generated",
    ),
    (
        Jvm,
        "jdk.proxy2.$Proxy10.go",
        "jdk.proxy.$Proxy.go",
        "jvm_generated",
    ),
    (
        Jvm,
        "com/sun/proxy/$Proxy7.go",
        "com/sun/proxy/$Proxy.go",
        "jvm_generated",
    ),
    (
        Jvm,
        "java.lang.Object jdk.internal.reflect.GeneratedConstructorAccessor1.newInstance(java.lang.Object[])",
        "java.lang.Object jdk.internal.reflect.GeneratedConstructorAccessor.newInstance(java.lang.Object[])",
        "jvm_generated",
    ),
    (
        Jvm,
        "sun.reflect.GeneratedMethodAccessor12.invoke",
        "sun.reflect.GeneratedMethodAccessor.invoke",
        "jvm_generated",
    ),
    (
        Jvm,
        "edp.core.config.DruidConfig$$EnhancerBySpringCGLIB$$155ee6c5$$FastClassBySpringCGLIB$$25271246.invoke",
        "edp.core.config.DruidConfig$$EnhancerBySpringCGLIB$$FastClassBySpringCGLIB.invoke",
        "jvm_generated",
    ),
    (
        Jvm,
        "com.acme.S$$SpringCGLIB$$0.run",
        "com.acme.S$$SpringCGLIB.run",
        "jvm_generated",
    ),
    (
        Jvm,
        "com.acme.Order$HibernateProxy$aB3xY9q1.getId",
        "com.acme.Order$HibernateProxy.getId",
        "jvm_generated",
    ),
    // Classes and methods that somebody wrote.
    (Jvm, "W.lambda$main$0", "W.lambda$main$0", ""),
    (Jvm, "com.acme.Outer$1.run", "com.acme.Outer$1.run", ""),
    (
        Jvm,
        "com.acme.Net$Proxy7.run",
        "com.acme.Net$Proxy7.run",
        "",
    ),
    (
        Jvm,
        "java.lang.invoke.LambdaForm$Name.index()",
        "java.lang.invoke.LambdaForm$Name.index()",
        "",
    ),
    (
        Jvm,
        "java.lang.invoke.DirectMethodHandle$Holder.invoke",
        "java.lang.invoke.DirectMethodHandle$Holder.invoke",
        "",
    ),
    (
        Jvm,
        "java.lang.Integer.<init>",
        "java.lang.Integer.<init>",
        "",
    ),
    (Native, "local_symbol/1", "local_symbol/1", ""),
];

#[test]
fn classes_that_a_machine_makes_have_one_name() {
    check(Rules::DEFAULT, JVM);
    check(
        Rules::DEFAULT.with(Rule::JvmLambdaNumber),
        &[
            (Jvm, "W.lambda$main$0", "W.lambda$main", "jvm_lambda_number"),
            (
                Jvm,
                "int W.lambda$main$12(int, int)",
                "int W.lambda$main(int, int)",
                "jvm_lambda_number",
            ),
            (Jvm, "com.acme.Outer$1.run", "com.acme.Outer$1.run", ""),
            (Jvm, "lambda$0", "lambda$0", ""),
        ],
    );
}

const NODE: &[Row] = &[
    (
        Node,
        "JS:*run /app/a.js:1:14",
        "run /app/a.js",
        "node_tier node_position",
    ),
    (
        Node,
        "JS:^get v /app/a.js:1:83",
        "get v /app/a.js",
        "node_tier node_position",
    ),
    (
        Node,
        "JS:~ /app/a.js:1:163",
        "(anonymous) /app/a.js",
        "node_tier node_position",
    ),
    (
        Node,
        "Eval:~ node:internal/main/run_main_module:1:1",
        "(anonymous) node:internal/main/run_main_module",
        "node_tier node_position",
    ),
    (
        Node,
        "LazyCompile:*foo file.js:12",
        "foo file.js",
        "node_tier node_position",
    ),
    (
        Node,
        "LazyCompile: *foo /app/w.js:12:3",
        "foo /app/w.js",
        "node_tier node_position",
    ),
    (
        Node,
        "Function:~foo file:///app/w.mjs:3:1",
        "foo file:///app/w.mjs",
        "node_tier node_position",
    ),
    (Node, "*foo", "foo", "node_tier"),
    (
        Node,
        "~ /app/a.js:1:1",
        "(anonymous) /app/a.js",
        "node_tier node_position",
    ),
    (Node, "foo", "foo", ""),
    (Node, "(anonymous)", "(anonymous)", ""),
    (Node, "(garbage collector)", "(garbage collector)", ""),
    (Node, "Builtin:CEntry_Return1", "Builtin:CEntry_Return1", ""),
    (Node, "RegExp:a+b", "RegExp:a+b", ""),
    (Node, "JS:", "JS:", ""),
    (Node, "-x", "-x", ""),
    (
        Node,
        "LazyCompile:'x /app/a.js:1",
        "x /app/a.js",
        "node_tier node_position",
    ),
    (Node, "at 12:30:15", "at 12:30:15", ""),
];

#[test]
fn code_of_every_tier_of_v8_is_one_function() {
    check(Rules::DEFAULT, NODE);
}

#[test]
fn names_of_python_and_those_made_for_people_stay() {
    for (kind, name) in [
        (Python, "<lambda>"),
        (Python, "<listcomp>"),
        (Python, "<module>"),
        (Python, "run.<locals>.<lambda>"),
        (Python, "py::run:/app/work.py"),
        (Ruby, "block (2 levels) in Foo#bar"),
        (Synthetic, "[unknown]"),
        (Synthetic, "0x12"),
        (Kernel, "do_idle"),
        (Kernel, "nf_hook_slow [nf_tables]"),
    ] {
        check(Rules::EVERY, &[(kind, name, name, "")]);
    }
    check(
        Rules::DEFAULT,
        &[(
            Ruby,
            "#<Class:0x000055c8a1b2c3d4>#call",
            "#<Class>#call",
            "ruby_address",
        )],
    );
}

#[test]
fn addresses_are_folded_and_handed_on() {
    for (kind, name, expected, taken) in [
        (
            Unsymbolized,
            "libc.so.6+0x1234",
            "[libc.so.6]",
            Some(Taken::ModuleOffset(0x1234)),
        ),
        (
            Unsymbolized,
            "app+0x1f",
            "[app]",
            Some(Taken::ModuleOffset(0x1f)),
        ),
        (
            Unsymbolized,
            "[vdso]+0x9a0",
            "[vdso]",
            Some(Taken::ModuleOffset(0x9a0)),
        ),
        (
            Unsymbolized,
            "/usr/lib/libm.so+0x1",
            "[libm.so]",
            Some(Taken::ModuleOffset(1)),
        ),
        (
            Unsymbolized,
            "0x7f12ab34cd56",
            "[unknown]",
            Some(Taken::Address(0x7f12_ab34_cd56)),
        ),
        (Unsymbolized, "+0x12", "+0x12", None),
        (Unsymbolized, "app+0x", "app+0x", None),
        (Unsymbolized, "app+0x+1", "app+0x+1", None),
        (
            Unsymbolized,
            "a+0x11112222333344445",
            "a+0x11112222333344445",
            None,
        ),
        (
            Native,
            "libc.so.6+0x1234",
            "[libc.so.6]",
            Some(Taken::ModuleOffset(0x1234)),
        ),
        (
            Native,
            "main+0x1a",
            "main",
            Some(Taken::FunctionOffset(0x1a)),
        ),
        (
            Native,
            "work.cold+0x1a",
            "work",
            Some(Taken::FunctionOffset(0x1a)),
        ),
        (
            Kernel,
            "do_idle+0x1a/0x2f0",
            "do_idle",
            Some(Taken::FunctionOffset(0x1a)),
        ),
        (Go, "0x45a3b1", "[unknown]", Some(Taken::Address(0x45_a3b1))),
        (
            Python,
            "0x45a3b1",
            "[unknown]",
            Some(Taken::Address(0x45_a3b1)),
        ),
        (Native, "0xhash", "0xhash", None),
        (Native, "[libc.so.6]", "[libc.so.6]", None),
        (
            Node,
            "JS:*run /app/a.js:7:14",
            "run /app/a.js",
            Some(Taken::StartLine(7)),
        ),
    ] {
        let got = normalize(kind, name, Rules::DEFAULT);
        assert_eq!((&*got.name, got.taken), (expected, taken), "{name}");
        check_promises(kind, name, Rules::EVERY);
        let off = Rules::DEFAULT
            .without(Rule::Address)
            .without(Rule::NodePosition);
        assert_eq!(normalize(kind, name, off).taken, None, "{name}");
    }
}

#[test]
fn rules_keep_their_bits_and_names() {
    for (bit, (rule, name)) in Rule::ALL.into_iter().enumerate() {
        let alone = Rules::NONE.with(rule);
        assert_eq!(alone.bits(), 1 << bit, "{name}");
        assert_eq!(Rule::from_name(name), Some(rule));
        assert_eq!(rule.name(), name);
        assert_eq!(Rules::from_bits(alone.bits()), Some(alone));
    }
    let all: Rules = Rule::ALL.into_iter().map(|(rule, _)| rule).collect();
    assert_eq!(all, Rules::EVERY);
    assert_eq!(Rules::from_bits(1 << Rule::ALL.len()), None);
    assert_eq!(Rule::from_name("spin"), None);
    assert_eq!(Rules::default().bits(), 0b1110_1100_1001_1111);
    assert_eq!(
        format!("{:?}", Rules::NONE.with(Rule::GoPath)),
        r#"{"go_path"}"#
    );
    assert!(Rules::NONE.is_empty());
}

#[test]
fn no_rule_changes_nothing() {
    for &(kind, name, ..) in tables() {
        assert_eq!(normalize(kind, name, Rules::NONE).name, name);
    }
}

#[test]
fn a_text_that_does_not_settle_stays() {
    let name = format!("a{}", "+0x1".repeat(9));
    let got = normalize(Native, &name, Rules::DEFAULT);
    assert_eq!(
        (&*got.name, got.applied, got.taken),
        (&*name, Rules::NONE, None)
    );
    assert!(matches!(got.name, Cow::Borrowed(_)));
}

#[test]
fn every_real_name_is_normal_after_one_pass() {
    for &(kind, name, ..) in tables() {
        for rules in [Rules::DEFAULT, Rules::EVERY] {
            let mut work = Work {
                name: Cow::Borrowed(name),
                applied: Rules::NONE,
                rules,
                taken: None,
            };
            work.pass(kind);
            assert!(!work.pass(kind), "{name}");
        }
    }
}

/// A quadratic walk over one of these takes 4 000 million steps per rule and
/// would hold up the suite; every position, look-back and look-ahead of a rule is
/// bounded or ends where the next one begins.
#[test]
fn long_hostile_names_are_walked_once() {
    const LENGTH: usize = 64 * 1024;
    let by_kind: [(FrameKind, &[&str]); 6] = [
        (
            Native,
            &[
                "<",
                ">",
                "<>",
                "a<",
                "(<",
                "<(",
                ")",
                "<a>",
                "operator<",
                "'<'",
                "->",
                "::<",
                "a[",
                "{closure#1}",
                "{a#1",
                "#1",
                "a",
                "é",
                ".0",
                ".cold",
                ".llvm.1",
                ".part",
                " [clone .cold]",
                " [clone ",
                " (",
                " (.cold)",
                "::h0123456789abcdef",
                "17h",
                "1",
                "$_0",
                "'lambda1",
                "[abi:v1000]",
                "[abi:",
            ],
        ),
        (
            Go,
            &[
                "func1.", ".func1", ".1", "1", "-range1", "/v2", "/vendor/", "/", "[...]", "[", "]",
            ],
        ),
        (
            Jvm,
            &[
                "$",
                "$1",
                "$1(",
                "lambda$",
                "$$Lambda$1",
                "$$Lambda$1/1",
                "/1",
                "1",
                "/0x11111111",
                "/0x11111111/1",
                "CGLIB$$1",
                "$Proxy1",
                "jdk.proxy1",
            ],
        ),
        (Node, &["*", "~", "* ", "JS:", ":1", " :1", " ", "1"]),
        (Ruby, &["#<Class:0x11111111>", "#<Class", ":0x"]),
        (Unsymbolized, &["+0x1", "+0x", "0x1", "/0x1", "/"]),
    ];
    for (kind, parts) in by_kind {
        for part in parts {
            check_promises(kind, &part.repeat(LENGTH / part.len()), Rules::EVERY);
        }
    }
    for part in ["<", ".cold", " [clone ", " (", "+0x1", "a"] {
        for tail in ["]", ")", ".cold", " [clone .cold]", "+0x1"] {
            let name = part.repeat(LENGTH / part.len()) + tail;
            check_promises(Native, &name, Rules::EVERY);
        }
    }
}

fn tables() -> impl Iterator<Item = &'static Row> {
    let tables = [RUST, SUFFIXES, CPP, JVM, NODE];
    tables.into_iter().flatten()
}

/// Idempotent, bounded, honest.
fn check_promises(kind: FrameKind, name: &str, rules: Rules) {
    let once = normalize(kind, name, rules);
    assert!(once.name.len() <= name.len() + MAX_GROWTH, "{name:?}");
    assert_eq!(once.applied.is_empty(), once.name == name, "{name:?}");
    assert_eq!(once.applied.bits() & !rules.bits(), 0, "{name:?}");
    assert!(once.taken.is_none() || !once.applied.is_empty(), "{name:?}");
    let twice = normalize(kind, &once.name, rules);
    assert_eq!(twice.name, once.name, "{name:?}");
    assert!(
        twice.applied.is_empty() && twice.taken.is_none(),
        "{name:?}"
    );
}

fn any_kind() -> impl Strategy<Value = FrameKind> {
    (0..FrameKind::ALL.len()).prop_map(|index| FrameKind::ALL[index].0)
}

fn any_rules() -> impl Strategy<Value = Rules> {
    prop_oneof![
        Just(Rules::DEFAULT),
        Just(Rules::EVERY),
        any::<u32>().prop_map(|bits| Rules(bits & Rules::EVERY.0)),
    ]
}

fn real_name() -> impl Strategy<Value = &'static str> {
    let generic = GENERICS.iter().map(|(name, _)| *name);
    let all = tables()
        .map(|(_, name, ..)| *name)
        .chain(generic)
        .chain(GO_KEPT.iter().copied());
    prop::sample::select(all.collect::<Vec<&str>>())
}

/// A real name, damaged: cut, doubled, with a part of another put in.
fn damaged_name() -> impl Strategy<Value = String> {
    (real_name(), real_name(), any::<[prop::sample::Index; 4]>()).prop_map(|(name, other, at)| {
        let cut = |text: &'static str, index: prop::sample::Index| -> (String, String) {
            let characters: Vec<char> = text.chars().collect();
            let (before, after) = characters.split_at(index.index(characters.len() + 1));
            (before.iter().collect(), after.iter().collect())
        };
        let (head, tail) = (cut(name, at[0]).0, cut(name, at[1]).1);
        let (from, _) = cut(other, at[2]);
        let middle: String = from
            .chars()
            .skip(at[3].index(from.chars().count() + 1))
            .collect();
        head + &middle + &tail
    })
}

/// What rules look for, in any order.
fn fragments() -> impl Strategy<Value = String> {
    let fragments = vec![
        "a",
        "b::",
        "<",
        ">",
        "<>",
        "(",
        ")",
        "[",
        "]",
        "{",
        "}",
        "{closure#0}",
        "{impl#1}",
        "#1",
        "operator",
        "operator<",
        "->",
        " ",
        ".",
        "/",
        "$",
        "-",
        "+0x1f",
        "0x7f12ab34",
        "::h0123456789abcdef",
        "17h0123456789abcdefE",
        "_ZN",
        "[4dd80272b5a2d1fc]::",
        ".cold",
        ".isra.0",
        " [clone .cold]",
        " (.cold)",
        ".llvm.12",
        "[abi:v15007]",
        "{lambda(int)#1}",
        "'lambda0'",
        "$_0",
        ".func1",
        ".1",
        "-range1",
        ".init.0",
        "/v2",
        "vendor/",
        "/vendor/",
        "[go.shape.int]",
        "$$Lambda$14",
        "/0x0000000800c03000",
        "/123",
        "$Proxy7",
        "jdk.proxy2.",
        "GeneratedMethodAccessor12",
        "CGLIB$$ab12",
        "$HibernateProxy$aB3xY9q1",
        "lambda$main$0",
        "JS:",
        "LazyCompile:",
        "*",
        "~",
        ":12",
        ":12:3",
        "(anonymous)",
        "é",
        "#<Class:0x000055c8a1b2>",
        ".so.6",
        "'",
        "1",
        "_",
    ];
    prop::collection::vec(prop::sample::select(fragments), 0..12).prop_map(|parts| parts.concat())
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(2000) })]

    #[test]
    fn any_text_keeps_the_promises(kind in any_kind(), name in any::<String>(), rules in any_rules()) {
        check_promises(kind, &name, rules);
    }

    #[test]
    fn damaged_names_keep_the_promises(kind in any_kind(), name in damaged_name(), rules in any_rules()) {
        check_promises(kind, &name, rules);
    }

    #[test]
    fn what_rules_look_for_in_any_order_keeps_the_promises(kind in any_kind(), name in fragments(), rules in any_rules()) {
        check_promises(kind, &name, rules);
    }

    #[test]
    fn a_word_of_any_language_stays(kind in any_kind(), name in "[a-zA-Z_][a-zA-Z_]{0,30}((::|\\.)[a-zA-Z_]{1,20}){0,4}") {
        prop_assume!(!name.ends_with(".cold") && !name.ends_with(".warm") && !name.ends_with(".localalias"));
        let got = normalize(kind, &name, Rules::EVERY);
        prop_assert_eq!(&*got.name, &*name);
    }
}
