"""Drives a XenAPI endpoint with XenAPI.py over XML-RPC: login, clone, start, events, shutdown, destroy."""

import os
import sys

from os_xenapi.client import XenAPI


def expect(what, condition):
    if not condition:
        sys.exit("FAIL " + what)
    print("PASS " + what)


def main():
    session = XenAPI.Session(os.environ["XAPI_URL"])
    try:
        session.login_with_password("root", "wrong")
        sys.exit("FAIL a wrong password was taken")
    except XenAPI.Failure as failure:
        expect("wrong password", failure.details[0] == "SESSION_AUTHENTICATION_FAILED")
    session.login_with_password(os.environ["XAPI_USER"], os.environ["XAPI_PASS"])
    x = session.xenapi
    expect("one pool", len(x.pool.get_all()) == 1)
    template = x.VM.get_by_name_label("Debian 12")[0]
    try:
        x.VM.start(template, False, False)
        sys.exit("FAIL a template was started")
    except XenAPI.Failure as failure:
        expect("a template does not start", failure.details == ["VM_IS_TEMPLATE", template, "start"])
    next_events = getattr(x.event, "from")
    dump = next_events(["vm"], "", 1.0)
    expect("dump of all VMs", len(dump["events"]) == dump["valid_ref_counts"]["vm"])
    vm = x.VM.clone(template, "by XenAPI.py")
    x.VM.provision(vm)
    x.VM.set_memory_limits(vm, "536870912", "536870912", "536870912", "536870912")
    x.VM.start(vm, False, False)
    record = x.VM.get_record(vm)
    expect("running", record["power_state"] == "Running")
    expect("64-bit numbers are text", record["memory_static_max"] == "536870912")
    changes = next_events(["vm"], dump["token"], 10.0)
    expect("the new VM arrives as an event",
           [e["operation"] for e in changes["events"] if e["ref"] == vm] == ["add"])
    task = x.Async.VM.clean_shutdown(vm)
    token = ""
    for _ in range(50):
        if x.task.get_status(task) != "pending":
            break
        token = next_events(["task/" + task], token, 5.0)["token"]
    expect("clean shutdown by a task", x.task.get_status(task) == "success")
    disks = [x.VBD.get_VDI(vbd) for vbd in x.VM.get_VBDs(vm) if x.VBD.get_type(vbd) == "Disk"]
    x.VM.destroy(vm)
    for disk in disks:
        x.VDI.destroy(disk)
    expect("one disk", len(disks) == 1)
    session.xenapi.session.logout()


main()
