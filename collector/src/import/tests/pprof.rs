//! pprof files.

use expect_test::expect;
use prost::Message as _;
use proto::pb::pprof as pb;
use proto::value_type::ProfileType;

use super::*;

#[test]
fn cpu_profiles_of_go_are_counted_in_samples() {
    check(
        "go-cpu.pb.gz",
        Format::Pprof,
        &expect![[r#"
        start Some(1795657136887108527) duration Some(1.086778427s)
        process_cpu:cpu:nanoseconds:cpu:nanoseconds Delta period 10000000 weight 10000000 total 93
        go!testing.tRunner testing/testing.go:2036;go!example.com/demo.TestWork example.com/demo/demo_test.go:28;go!runtime/pprof.Do runtime/pprof/runtime.go:57;go!example.com/demo.TestWork.func1 example.com/demo/demo_test.go:31;go!example.com/demo.checksum example.com/demo/demo_test.go:15;go!hash/crc32.ChecksumIEEE hash/crc32/crc32.go:245;go!hash/crc32.archUpdateIEEE hash/crc32/crc32_amd64.go:223;go!hash/crc32.ieeeCLMUL hash/crc32/crc32_amd64.s:192 [12]
        go!testing.tRunner testing/testing.go:2036;go!example.com/demo.TestWork example.com/demo/demo_test.go:28;go!runtime/pprof.Do runtime/pprof/runtime.go:57;go!example.com/demo.TestWork.func1 example.com/demo/demo_test.go:31;go!example.com/demo.checksum example.com/demo/demo_test.go:15;go!hash/crc32.ChecksumIEEE hash/crc32/crc32.go:245;go!hash/crc32.archUpdateIEEE hash/crc32/crc32_amd64.go:223;go!hash/crc32.ieeeCLMUL hash/crc32/crc32_amd64.s:190 [2]
        go!testing.tRunner testing/testing.go:2036;go!example.com/demo.TestWork example.com/demo/demo_test.go:28;go!runtime/pprof.Do runtime/pprof/runtime.go:57;go!example.com/demo.TestWork.func1 example.com/demo/demo_test.go:31;go!example.com/demo.checksum example.com/demo/demo_test.go:15;go!hash/crc32.ChecksumIEEE hash/crc32/crc32.go:245;go!hash/crc32.archUpdateIEEE hash/crc32/crc32_amd64.go:223;go!hash/crc32.ieeeCLMUL hash/crc32/crc32_amd64.s:189 [50]
        go!testing.tRunner testing/testing.go:2036;go!example.com/demo.TestWork example.com/demo/demo_test.go:35;go!example.com/demo.square example.com/demo/demo_test.go:19;go!example.com/demo.mul example.com/demo/demo_test.go:24 [8]
        go!testing.tRunner testing/testing.go:2036;go!example.com/demo.TestWork example.com/demo/demo_test.go:35;go!example.com/demo.square example.com/demo/demo_test.go:18 [15]
        go!testing.tRunner testing/testing.go:2036;go!example.com/demo.TestWork example.com/demo/demo_test.go:35;go!example.com/demo.square example.com/demo/demo_test.go:19 [3]
        go!testing.tRunner testing/testing.go:2036;go!example.com/demo.TestWork example.com/demo/demo_test.go:34;go!time.Now time/time.go:1348;go!time.runtimeNow runtime/time.go:29 [3]
        left out: 3 labels of samples dropped
    "#]],
    );
}

#[test]
fn every_sample_type_of_a_heap_profile_is_a_column() {
    check(
        "go-heap.pb.gz",
        Format::Pprof,
        &expect![[r#"
        start Some(1795657137977698560) duration None
        memory:alloc_objects:count:space:bytes Delta period 65536 weight 1 total 4582
        memory:alloc_space:bytes:space:bytes Delta period 65536 weight 1 total 7685436
        memory:inuse_objects:count:space:bytes Gauge period 65536 weight 1 total 61
        memory:inuse_space:bytes:space:bytes Gauge period 65536 weight 1 total 4043380
        go!runtime/pprof.profileWriter runtime/pprof/pprof.go:943;go!runtime/pprof.(*profileBuilder).build runtime/pprof/proto.go:390;go!compress/gzip.(*Writer).Write compress/gzip/gzip.go:191;go!compress/flate.NewWriter compress/flate/deflate.go:666;go!compress/flate.(*compressor).init compress/flate/deflate.go:589 [1, 267034, 0, 0]
        go!runtime/pprof.profileWriter runtime/pprof/pprof.go:943;go!runtime/pprof.(*profileBuilder).build runtime/pprof/proto.go:390;go!compress/gzip.(*Writer).Write compress/gzip/gzip.go:191;go!compress/flate.NewWriter compress/flate/deflate.go:666;go!compress/flate.(*compressor).init compress/flate/deflate.go:588;go!compress/flate.newDeflateFast compress/flate/deflatefast.go:64 [2, 261828, 0, 0]
        go!runtime/pprof.profileWriter runtime/pprof/pprof.go:943;go!runtime/pprof.(*profileBuilder).build runtime/pprof/proto.go:390;go!compress/gzip.(*Writer).Write compress/gzip/gzip.go:191;go!compress/flate.NewWriter compress/flate/deflate.go:665 [1, 663578, 0, 0]
        go!runtime/pprof.profileWriter runtime/pprof/pprof.go:931;go!runtime/pprof.(*profileBuilder).addCPUData runtime/pprof/proto.go:338;go!runtime/pprof.(*profMap).lookup runtime/pprof/map.go:69 [8, 69717, 0, 0]
        go!testing.tRunner testing/testing.go:2036;go!example.com/demo.TestWork example.com/demo/demo_test.go:38 [61, 4043380, 61, 4043380]
        go!runtime/pprof.profileWriter runtime/pprof/pprof.go:923;go!runtime/pprof.newProfileBuilder runtime/pprof/proto.go:260;go!compress/gzip.NewWriterLevel compress/gzip/gzip.go:64 [410, 65616, 0, 0]
        go!testing.tRunner testing/testing.go:2036;go!example.com/demo.TestWork example.com/demo/demo_test.go:28;go!runtime/pprof.Do runtime/pprof/runtime.go:57;go!example.com/demo.TestWork.func1 example.com/demo/demo_test.go:29 [1, 1048576, 0, 0]
        go!runtime.main runtime/proc.go:290;go!main.main _testmain.go:46;go!testing.(*M).Run testing/testing.go:2434;go!testing.(*M).before testing/testing.go:2611;go!testing/internal/testdeps.TestDeps.StartCPUProfile testing/internal/testdeps/deps.go:51;go!runtime/pprof.StartCPUProfile runtime/pprof/pprof.go:910 [2, 1200163, 0, 0]
        go!runtime.main runtime/proc.go:290;go!main.main _testmain.go:46;go!testing.(*M).Run testing/testing.go:2434;go!testing.(*M).before testing/testing.go:2606;go!testing.toOutputDir testing/testing.go:2778 [4096, 65544, 0, 0]
        left out: 11 labels of samples dropped
    "#]],
    );
}

#[test]
fn mutex_and_block_profiles_are_told_apart() {
    check(
        "go-mutex.pb.gz",
        Format::Pprof,
        &expect![[r#"
        start Some(1795657137979185347) duration None
        mutex:contentions:count:contentions:count Delta period 1 weight 1 total 80
        mutex:delay:nanoseconds:contentions:count Delta period 1 weight 1 total 247206169
        go!example.com/demo.TestWork.func2 example.com/demo/demo_test.go:50;go!sync.(*Mutex).Unlock sync/mutex.go:65 [79, 247204116]
        go!runtime.main runtime/proc.go:290;go!main.main _testmain.go:46;go!testing.(*M).Run testing/testing.go:2486;go!testing.(*M).after testing/testing.go:2684;go!sync.(*Once).Do sync/once.go:69;go!sync.(*Once).doSlow sync/once.go:78;go!testing.(*M).after.func1 testing/testing.go:2685;go!testing.(*M).writeProfiles testing/testing.go:2708;go!testing/internal/testdeps.TestDeps.StopCPUProfile testing/internal/testdeps/deps.go:55;go!runtime/pprof.StopCPUProfile runtime/pprof/pprof.go:958;go!runtime.SetCPUProfileRate runtime/cpuprof.go:96;go!runtime.unlock runtime/lock_spinbit.go:261 [1, 2053]
    "#]],
    );
    check(
        "go-block.pb.gz",
        Format::Pprof,
        &expect![[r#"
        start Some(1795657137978528778) duration None
        block:contentions:count:contentions:count Delta period 1 weight 1 total 84
        block:delay:nanoseconds:contentions:count Delta period 1 weight 1 total 1424912339
        go!runtime.main runtime/proc.go:290;go!main.main _testmain.go:46;go!testing.(*M).Run testing/testing.go:2443;go!testing.runTests testing/testing.go:2583;go!testing.tRunner testing/testing.go:2036;go!testing.runTests.func1 testing/testing.go:2585;go!testing.(*T).Run testing/testing.go:2109;go!runtime.chanrecv1 runtime/chan.go:509 [1, 1090007630]
        go!example.com/demo.TestWork.func2 example.com/demo/demo_test.go:48;go!sync.(*Mutex).Lock sync/mutex.go:46 [79, 246641322]
        go!testing.(*T).Run.gowrap1 testing/testing.go:2101;go!testing.tRunner testing/testing.go:2036;go!example.com/demo.TestWork example.com/demo/demo_test.go:54;go!sync.(*WaitGroup).Wait sync/waitgroup.go:206 [1, 88244470]
        go!runtime/pprof.StartCPUProfile.gowrap2 runtime/pprof/pprof.go:911;go!runtime/pprof.profileWriter runtime/pprof/pprof.go:944;go!runtime.chansend1 runtime/chan.go:161 [1, 9664]
        go!testing.(*T).Run.gowrap1 testing/testing.go:2101;go!testing.tRunner testing/testing.go:2036;go!example.com/demo.TestWork example.com/demo/demo_test.go:38;go!runtime.makeslice runtime/slice.go:117;go!runtime.mallocgc runtime/malloc.go:1156;go!runtime.mallocgcLarge runtime/malloc.go:1755;go!runtime.gcStart runtime/mgc.go:817;go!runtime.gcBgMarkStartWorkers runtime/mgc.go:1705;go!runtime.chanrecv1 runtime/chan.go:509 [2, 9253]
    "#]],
    );
}

fn changed_profile(change: impl FnOnce(&mut pb::Profile)) -> Vec<u8> {
    let bytes = codec::gunzip(&file("go-cpu.pb.gz"), 1 << 20).unwrap();
    let mut profile = pb::Profile::decode(&bytes[..]).unwrap();
    change(&mut profile);
    profile.encode_to_vec()
}

#[test]
fn cpu_that_is_no_multiple_of_the_period_stays_in_nanoseconds() {
    let imported = one(
        &changed_profile(|p| p.sample[0].value[1] += 1),
        Format::Pprof,
    );
    let weights: Vec<u64> = imported.columns.iter().map(|c| c.weight).collect();
    assert_eq!(weights, [1, 1]);
    assert_eq!(imported.columns[1].profile_type, ProfileType::cpu());
    assert_eq!(imported.columns[1].period, 10_000_000);
}

#[test]
fn counts_of_samples_stay_where_they_say_more_than_the_time() {
    let imported = one(
        &changed_profile(|p| p.sample[0].value[0] += 1),
        Format::Pprof,
    );
    let kinds: Vec<&str> = imported
        .columns
        .iter()
        .map(|c| c.profile_type.sample().kind())
        .collect();
    assert_eq!(kinds, ["samples", "cpu"]);
    assert_eq!(imported.columns[1].weight, 10_000_000);
}

#[test]
fn unusable_pprof_profiles_are_refused_with_the_reason() {
    type Change = fn(&mut pb::Profile);
    let cases: [(&str, Change); 5] = [
        ("0 sample types", |p| {
            p.sample_type.clear();
            p.sample.clear();
        }),
        ("cpu:nanoseconds twice", |p| {
            p.sample_type[0] = p.sample_type[1];
        }),
        ("17 sample types", |p| {
            p.sample_type = vec![p.sample_type[1]; 17];
            p.sample.clear();
        }),
        ("does not hold", |p| p.sample[0].location_id[0] = 999),
        ("values for", |p| p.sample[0].value.push(1)),
    ];
    for (reason, change) in cases {
        let message = failure(&changed_profile(change), Format::Pprof);
        assert!(message.contains(reason), "{message}");
    }
}

#[test]
fn a_small_file_that_unfolds_beyond_memory_is_cut() {
    let bytes = changed_profile(|p| {
        let line = p.location[0].line[0];
        p.location[0].line = vec![line; 1000];
        p.sample = vec![p.sample[0].clone(); 2_000];
        for sample in &mut p.sample {
            sample.location_id = vec![p.location[0].id; 20];
        }
    });
    assert!(bytes.len() < 128 * 1024);
    let imported = one(&bytes, Format::Pprof);
    assert_eq!(imported.left_out.truncated_samples, 2_000);
    assert_eq!(imported.stacks.len(), 1);
    assert_eq!(imported.stacks[0].len(), Limits::default().depth + 1);
}

#[test]
fn an_idle_profile_is_no_failure() {
    let imported = one(&changed_profile(|p| p.sample.clear()), Format::Pprof);
    assert!(imported.stacks.is_empty());
    assert!(imported.start.is_some());
}
