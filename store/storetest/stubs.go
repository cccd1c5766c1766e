package storetest

import "testing"

func placement(*testing.T, Harness) {}
func constraints(*testing.T, Harness) {}
func appliances(*testing.T, Harness) {}
func outbox(*testing.T, Harness) {}
func operators(*testing.T, Harness) {}
func pressure(*testing.T, Harness) {}
func ledgerProperties(*testing.T, Harness) {}
