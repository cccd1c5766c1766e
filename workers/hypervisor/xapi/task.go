package xapi

import (
	"context"
	"encoding/xml"
	"fmt"
	"strings"

	"slipway/orchestrator"
)

// TaskStatus is how a task stands.
type TaskStatus string

const (
	// TaskPending runs, or is being canceled: a canceled clone was seen to finish with success, so a cancel is never an end.
	TaskPending TaskStatus = "pending"
	TaskSuccess TaskStatus = "success"
	TaskFailure TaskStatus = "failure"
	// TaskCanceled did end so.
	TaskCanceled TaskStatus = "canceled"
	// TaskGone is not in the database any more. xapi forgets finished tasks after 65 minutes and all of them at a restart, so this says
	// nothing about the outcome: look at the object.
	TaskGone TaskStatus = "gone"
)

// TaskState is one reading of a task.
type TaskState struct {
	Status   TaskStatus
	Result   Ref     // of a success: the object that the call made, or ""
	Progress float64 // 0..1
	Err      error   // of a failure or cancel, with kind; of a task that is gone, Unknown
}

// StartTask makes the call as an asynchronous task ("VM.clone" becomes Async.VM.clone) and gives the task's reference. xapi has no
// idempotency key: record the reference before waiting for it. A bad argument fails the task, not this call. Kinds as for Call; after
// Unknown the task may be running without anybody knowing its reference.
func (c *Client) StartTask(ctx context.Context, method string, args ...any) (Ref, error) {
	var ref Ref
	if err := c.Call(ctx, "Async."+method, &ref, args...); err != nil {
		return "", err
	}
	if !ref.valid() || ref.IsNull() {
		return "", classify("xapi", &lostError{method: "Async." + method, sent: true, answered: true, err: fmt.Errorf("%q is no task reference", printable(string(ref)))})
	}
	return ref, nil
}

type taskRecord struct {
	NameLabel string   `json:"name_label"`
	Status    string   `json:"status"`
	Result    string   `json:"result"`
	ErrorInfo []string `json:"error_info"`
	Progress  float64  `json:"progress"`
}

// ObserveTask reads a task. The error is about the reading; how the task itself failed is in the state.
func (c *Client) ObserveTask(ctx context.Context, task Ref) (TaskState, error) {
	var r taskRecord
	err := c.Call(ctx, "task.get_record", &r, task)
	if HasCode(err, codeHandleInvalid) {
		return TaskState{Status: TaskGone, Err: orchestrator.Errorf("xapi.ObserveTask", orchestrator.Unknown, "task is gone, its outcome was not seen")}, nil
	}
	if err != nil {
		return TaskState{}, err
	}
	return c.taskState(r)
}

func (c *Client) taskState(r taskRecord) (TaskState, error) {
	method := strings.TrimPrefix(printable(r.NameLabel), "Async.")
	switch status := taskStatus(r.Status); status {
	case TaskPending:
		return TaskState{Status: status, Progress: r.Progress}, nil
	case TaskSuccess:
		ref, err := taskResult(r.Result)
		if err != nil {
			return TaskState{}, orchestrator.Errorf("xapi.ObserveTask", orchestrator.Unknown, "%s succeeded with %w", method, err)
		}
		return TaskState{Status: status, Result: ref}, nil
	case TaskFailure, TaskCanceled:
		code, params := "TASK_FAILED_WITHOUT_REASON", []string(nil)
		switch {
		case len(r.ErrorInfo) > 0:
			code, params = r.ErrorInfo[0], r.ErrorInfo[1:]
		case status == TaskCanceled:
			code = "TASK_CANCELLED"
		}
		err := c.wire.failure(method, "", code, params)
		return TaskState{Status: status, Err: classify("xapi", err)}, nil
	}
	return TaskState{}, orchestrator.Errorf("xapi.ObserveTask", orchestrator.Transient, "%s has the unknown status %q", method, printable(r.Status))
}

func taskStatus(s string) TaskStatus {
	switch s {
	case "pending", "cancelling":
		return TaskPending
	case "success":
		return TaskSuccess
	case "failure":
		return TaskFailure
	case "cancelled":
		return TaskCanceled
	}
	return ""
}

// taskResult reads a result: empty, "<value></value>" for a call that gives nothing, or "<value>OpaqueRef:…</value>".
func taskResult(s string) (Ref, error) {
	if s == "" {
		return "", nil
	}
	var v struct {
		XMLName xml.Name `xml:"value"`
		Text    string   `xml:",chardata"`
	}
	if err := xml.Unmarshal([]byte(s), &v); err != nil {
		return "", fmt.Errorf("a result that is no <value>: %q", printable(s))
	}
	ref := Ref(strings.TrimSpace(v.Text))
	if ref != "" && !ref.valid() {
		return "", fmt.Errorf("a result that is no reference: %q", printable(s))
	}
	return ref, nil
}

// DestroyTask forgets a finished task; one that is gone already is success. A pending one is left alone: destroying it would not stop
// the work, only hide it.
func (c *Client) DestroyTask(ctx context.Context, task Ref) error {
	state, err := c.ObserveTask(ctx, task)
	if err != nil || state.Status == TaskGone || state.Status == TaskPending {
		return err
	}
	if err := c.Call(ctx, "task.destroy", nil, task); err != nil && !HasCode(err, codeHandleInvalid) {
		return err
	}
	return nil
}
