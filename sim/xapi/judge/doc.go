// Package judge runs other people's clients against the simulator: Xen Orchestra's connector (npm xen-api, pinned by package-lock.json) and
// XenAPI.py as Debian ships it. It holds no code, only tests and what they run.
package judge
