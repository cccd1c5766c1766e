package storetest

import "testing"

func constraints(*testing.T, Harness) {}
func appliances(*testing.T, Harness) {}
func outbox(*testing.T, Harness) {}
func operators(*testing.T, Harness) {}
