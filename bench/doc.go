// Package bench measures what a durable step costs: the engine, the committer and the real stores, with steps that do nothing else. Its
// tests guard the counts, which do not vary; its benchmarks (scripts/bench.sh) print them with the speed, which does.
package bench
