package xvp

// consoleSource says where displays come from.
func consoleSource(xenapi string) source {
	if xenapi == "" {
		return picture
	}
	return fromXenAPI(xenapi)
}

func fromXenAPI(string) source { return picture }
