# The guest's side of a detached job, for Windows PowerShell 5.1. It arrives on standard input with every call, so nothing has to be
# installed first and an old copy cannot linger; only a job keeps the copy it was uploaded with. It holds no parameters and no secrets.
#
#   probe             how far Windows Setup is, and what system this is
#   upload ID SHA256  the bundle, base64 of JSON, becomes %ProgramData%\slipway\jobs\ID in one rename; does nothing when that is there
#   start ID          runs the job as a scheduled task of SYSTEM, once, whoever asks and however often
#   observe ID N      how the job stands, and its log from byte N on (bounded)
#   inspect           runs the checks of the newest job that succeeded, and tells the machine's SID
#   leave - ACCOUNT   takes the jobs, their tasks and the installer's account away
#   job ID, step ID NAME   the task's own: the job's process, and the process of one step
#
# In a job's folder: params.json, steps.json, scripts\, files\, secrets\, runner.ps1, claim and child ("PID CREATED" of its process and
# of its step's), log, stage, done.NAME, restart (while Windows restarts because a step wanted it), exit (the code, written once at the end).
#
# The answer is one line: "slipway:" and base64 of JSON. Exit codes: 64 wrong use, 65 the job is not there, 75 another job still runs.
# A process in a remote shell dies with that shell, whatever it detaches from; a scheduled task is no child of the shell.
param([string]$Verb, [string]$Id, [string]$Argument, [string]$Upload, [string]$Text)

Set-StrictMode -Version 2
$ErrorActionPreference = 'Stop'
$ProgressPreference = 'SilentlyContinue'
$root = [IO.Path]::Combine($env:ProgramData, 'slipway')
$base = [IO.Path]::Combine($root, 'jobs')
$dir = [IO.Path]::Combine($base, $Id)
$utf8 = New-Object Text.UTF8Encoding $false
$powershell = [IO.Path]::Combine($env:SystemRoot, 'System32\WindowsPowerShell\v1.0\powershell.exe')
$restartMinutes = 30 # after which a restart that was asked for counts as lost

function Send-Answer([int]$Code, [hashtable]$Fields) {
    $Fields['code'] = $Code
    $json = ConvertTo-Json -InputObject $Fields -Compress -Depth 4
    [Console]::Out.WriteLine('slipway:' + [Convert]::ToBase64String($utf8.GetBytes($json)))
    exit $Code
}

function Write-Log([string]$Line) {
    # Readers share the file, but two writers do not: a job's process and its step's take turns.
    for ($i = 0; ; $i++) {
        try {
            [IO.File]::AppendAllText("$dir\log", $Line + "`n", $utf8)
            return
        } catch [IO.IOException] {
            if ($i -ge 50) { throw }
            Start-Sleep -Milliseconds 20
        }
    }
}

# A pid together with the moment its process was created is nobody else's, in this boot and in any other.
function Get-Stamp([Diagnostics.Process]$Process) {
    return "$($Process.Id) $($Process.StartTime.ToFileTimeUtc())"
}

function Test-Alive([string]$Folder) {
    foreach ($name in 'claim', 'child') {
        try {
            $words = [IO.File]::ReadAllText("$Folder\$name").Trim().Split(' ')
            $process = [Diagnostics.Process]::GetProcessById([int]$words[0])
            if ((Get-Stamp $process) -eq ($words -join ' ') -and -not $process.HasExited) { return $true }
        } catch {
            continue # no such file, no such process, or a file that a crash cut off
        }
    }
    return $false
}

function Test-Restarting([string]$Folder) {
    $file = New-Object IO.FileInfo "$Folder\restart"
    return $file.Exists -and ([DateTime]::UtcNow - $file.LastWriteTimeUtc).TotalMinutes -lt $restartMinutes
}

function Invoke-Probe {
    $state = (Get-ItemProperty -LiteralPath 'HKLM:\SOFTWARE\Microsoft\Windows\CurrentVersion\Setup\State').ImageState
    $setup = Get-ItemProperty -LiteralPath 'HKLM:\SYSTEM\Setup'
    foreach ($name in 'SystemSetupInProgress', 'OOBEInProgress') {
        if ($setup.PSObject.Properties[$name] -and $setup.$name -ne 0) { $state = $name }
    }
    Send-Answer 0 @{ setup = $state; system = (Get-CimInstance -ClassName Win32_OperatingSystem).Caption; name = $env:COMPUTERNAME }
}

function Save-Files([string]$Folder, $Files, [string]$Ending) {
    New-Item -ItemType Directory -Path $Folder | Out-Null
    if ($null -eq $Files) { return }
    foreach ($file in $Files.PSObject.Properties) {
        if ($file.Name -cnotmatch '^[a-z0-9][a-z0-9_.-]{0,63}$') { throw "file name $($file.Name) is not plain" }
        [IO.File]::WriteAllBytes("$Folder\$($file.Name)$Ending", [Convert]::FromBase64String($file.Value))
    }
}

function Invoke-Upload {
    if ([IO.Directory]::Exists($dir)) { Send-Answer 0 @{} }
    $bytes = [Convert]::FromBase64String($Upload)
    $hash = [Security.Cryptography.SHA256]::Create().ComputeHash($bytes)
    if ([BitConverter]::ToString($hash).Replace('-', '') -ne $Argument) { throw 'the upload is cut off' }
    $bundle = $utf8.GetString($bytes) | ConvertFrom-Json
    if (-not [IO.Directory]::Exists($base)) { New-Item -ItemType Directory -Force -Path $base | Out-Null }
    # SYSTEM and Administrators alone, by their SIDs, for their names are translated.
    $acl = New-Object Security.AccessControl.DirectorySecurity
    $acl.SetSecurityDescriptorSddlForm('D:PAI(A;OICI;FA;;;SY)(A;OICI;FA;;;BA)')
    (New-Object IO.DirectoryInfo $root).SetAccessControl($acl)
    # It is this upload's alone until its rename; a dot, so that it is never taken for a job.
    $part = [IO.Path]::Combine($base, '.part.' + [Guid]::NewGuid().ToString('n'))
    try {
        New-Item -ItemType Directory -Path $part | Out-Null
        Save-Files "$part\files" $bundle.files ''
        Save-Files "$part\secrets" $bundle.secrets ''
        $scripts = New-Object PSObject
        $steps = @()
        foreach ($step in $bundle.steps) {
            $scripts | Add-Member -MemberType NoteProperty -Name $step.name -Value $step.script
            $steps += @{ name = $step.name; seconds = $step.seconds }
        }
        Save-Files "$part\scripts" $scripts '.ps1'
        [IO.File]::WriteAllText("$part\steps.json", (ConvertTo-Json -InputObject $steps), $utf8)
        [IO.File]::WriteAllText("$part\params.json", (ConvertTo-Json -InputObject $bundle.params), $utf8)
        [IO.File]::WriteAllText("$part\runner.ps1", $Text, (New-Object Text.UTF8Encoding $true))
        # Moves onto no folder that exists: of two uploads one wins.
        try { [IO.Directory]::Move($part, $dir) } catch [IO.IOException] { if (-not [IO.Directory]::Exists($dir)) { throw } }
    } finally {
        if ([IO.Directory]::Exists($part)) { [IO.Directory]::Delete($part, $true) }
    }
    Send-Answer 0 @{}
}

function Invoke-Start {
    if (-not [IO.Directory]::Exists($dir)) { Send-Answer 65 @{ error = "job $Id was not uploaded" } }
    if ([IO.File]::Exists("$dir\claim") -or [IO.File]::Exists("$dir\exit")) { Send-Answer 0 @{} }
    foreach ($other in [IO.Directory]::GetDirectories($base)) {
        if (-not [IO.File]::Exists("$other\exit") -and ((Test-Restarting $other) -or (Test-Alive $other))) {
            Send-Answer 75 @{ error = "job $([IO.Path]::GetFileName($other)) still runs" }
        }
    }
    $task = @{
        TaskName  = "slipway-$Id"
        Action    = New-ScheduledTaskAction -Execute $powershell -Argument "-NoLogo -NoProfile -NonInteractive -ExecutionPolicy Bypass -File `"$dir\runner.ps1`" job $Id"
        Trigger   = New-ScheduledTaskTrigger -AtStartup
        Principal = New-ScheduledTaskPrincipal -UserId 'S-1-5-18' -LogonType ServiceAccount -RunLevel Highest
        Settings  = New-ScheduledTaskSettingsSet -AllowStartIfOnBatteries -DontStopIfGoingOnBatteries -ExecutionTimeLimit ([TimeSpan]::Zero) -MultipleInstances IgnoreNew
    }
    Register-ScheduledTask @task -Force | Out-Null
    Start-ScheduledTask -TaskName "slipway-$Id"
    # The answer says that it has begun, not that somebody will try.
    for ($i = 0; $i -lt 200; $i++) {
        if ([IO.File]::Exists("$dir\claim")) { Send-Answer 0 @{} }
        Start-Sleep -Milliseconds 100
    }
    throw "job $Id did not begin within 20 s"
}

# Of two starters one gets the claim: it is moved into place with its text, and a move onto a file that exists fails.
function Get-Claim {
    if ([IO.File]::Exists("$dir\exit")) { return $false }
    $mine = "$dir\claim.$PID"
    [IO.File]::WriteAllText($mine, (Get-Stamp ([Diagnostics.Process]::GetCurrentProcess())), $utf8)
    if ([IO.File]::Exists("$dir\restart")) {
        # The startup after the restart that a step wanted. The task has one instance, so nobody else is here. First the claim, then the
        # mark: between the two the job counts as running.
        [IO.File]::Replace($mine, "$dir\claim", [NullString]::Value)
        [IO.File]::Delete("$dir\restart")
        return $true
    }
    try {
        [IO.File]::Move($mine, "$dir\claim")
        return $true
    } catch [IO.IOException] {
        [IO.File]::Delete($mine) # it runs, or it was lost in a restart that nobody asked for
        return $false
    }
}

function Invoke-Job {
    if (-not (Get-Claim)) { return }
    $code = 0
    foreach ($step in ([IO.File]::ReadAllText("$dir\steps.json") | ConvertFrom-Json)) {
        $name = $step.name
        if ([IO.File]::Exists("$dir\done.$name")) { continue }
        [IO.File]::WriteAllText("$dir\stage", $name, $utf8)
        Write-Log "== $name"
        $info = New-Object Diagnostics.ProcessStartInfo $powershell, "-NoLogo -NoProfile -NonInteractive -ExecutionPolicy Bypass -File `"$dir\runner.ps1`" step $Id $name"
        $info.UseShellExecute = $false
        $info.CreateNoWindow = $true
        $info.WorkingDirectory = $dir
        $child = [Diagnostics.Process]::Start($info)
        [IO.File]::WriteAllText("$dir\child", (Get-Stamp $child), $utf8)
        if ($child.WaitForExit(1000 * [int]$step.seconds)) {
            $code = $child.ExitCode
        } else {
            $kill = [Diagnostics.Process]::Start([IO.Path]::Combine($env:SystemRoot, 'System32\taskkill.exe'), "/T /F /PID $($child.Id)")
            $kill.WaitForExit(10000) | Out-Null
            $code = 124
            Write-Log "== $name took longer than $($step.seconds)s"
        }
        if ($code -eq 3010) {
            # The mark comes first: seen with it, a process that is gone is one that Windows has taken down.
            [IO.File]::WriteAllText("$dir\restart", $name, $utf8)
            [IO.File]::WriteAllText("$dir\done.$name", '', $utf8)
            [IO.File]::WriteAllText("$dir\stage", 'restart', $utf8)
            Write-Log "== $name wants a restart"
            [Diagnostics.Process]::Start([IO.Path]::Combine($env:SystemRoot, 'System32\shutdown.exe'), '/r /f /t 3 /d p:2:4').WaitForExit(10000) | Out-Null
            return
        }
        if ($code -ne 0) {
            Write-Log "== $name failed with exit code $code"
            break
        }
        [IO.File]::WriteAllText("$dir\done.$name", '', $utf8)
    }
    if ($code -eq 0) {
        [IO.Directory]::Delete("$dir\secrets", $true)
        Write-Log '== done'
    }
    [IO.File]::WriteAllText("$dir\exit.new", "$code", $utf8)
    [IO.File]::Move("$dir\exit.new", "$dir\exit")
    Unregister-ScheduledTask -TaskName "slipway-$Id" -Confirm:$false
}

function Invoke-Step {
    $env:SLIPWAY_JOB = $dir
    Set-Location -LiteralPath $dir
    $code = 0
    try {
        $global:LASTEXITCODE = 0
        & "$dir\scripts\$Argument.ps1" *>&1 | ForEach-Object { Write-Log ($_ | Out-String -Width 1000).TrimEnd() }
        $code = $global:LASTEXITCODE
    } catch {
        Write-Log "$($_.InvocationInfo.ScriptLineNumber): $_"
        $code = 1
    }
    exit $code
}

function Invoke-Observe {
    [long]$offset = 0
    if (-not [long]::TryParse($Argument, [ref]$offset) -or $offset -lt 0) { Send-Answer 64 @{ error = 'the offset is no number' } }
    $state = 'unknown'
    if ([IO.File]::Exists("$dir\exit")) {
        $state = 'exited'
    } elseif ([IO.File]::Exists("$dir\claim")) {
        $state = 'running'
        # It may have ended, or begun its restart, between the two looks.
        if (-not (Test-Alive $dir) -and -not (Test-Restarting $dir)) {
            $state = 'lost'
            if ([IO.File]::Exists("$dir\exit")) { $state = 'exited' }
        }
    }
    $code = 0
    if ($state -eq 'exited') { $code = [int][IO.File]::ReadAllText("$dir\exit") }
    $stage = ''
    if ([IO.File]::Exists("$dir\stage")) { $stage = [IO.File]::ReadAllText("$dir\stage").Trim() }
    # The state first, then the log: what is read of a finished job is all of it.
    $part = ''
    if ([IO.File]::Exists("$dir\log")) {
        $stream = New-Object IO.FileStream "$dir\log", ([IO.FileMode]::Open), ([IO.FileAccess]::Read), ([IO.FileShare]::ReadWrite)
        try {
            $buffer = New-Object byte[] 65536
            $stream.Seek($offset, [IO.SeekOrigin]::Begin) | Out-Null
            $n = $stream.Read($buffer, 0, $buffer.Length)
            $part = [Convert]::ToBase64String($buffer, 0, $n)
        } finally {
            $stream.Dispose()
        }
    }
    Send-Answer 0 @{ state = $state; exit = $code; stage = $stage; log = $part }
}

function Invoke-Inspect {
    $newest = $null
    if ([IO.Directory]::Exists($base)) {
        foreach ($folder in [IO.Directory]::GetDirectories($base)) {
            $file = New-Object IO.FileInfo "$folder\exit"
            if ($file.Exists -and [IO.File]::ReadAllText($file.FullName).Trim() -eq '0' -and ($null -eq $newest -or $file.LastWriteTimeUtc -gt $newest.LastWriteTimeUtc)) {
                $newest = $file
            }
        }
    }
    if ($null -eq $newest) { Send-Answer 65 @{ error = 'no job has succeeded here' } }
    $env:SLIPWAY_JOB = $newest.DirectoryName
    Set-Location -LiteralPath $newest.DirectoryName
    $output = & "$($newest.DirectoryName)\scripts\checks.ps1" *>&1 | Out-String -Width 1000
    # The SID of the machine is that of its accounts without their last number.
    $administrator = Get-LocalUser | Where-Object { $_.SID.Value -match '^S-1-5-21-.*-500$' } | Select-Object -First 1
    Send-Answer 0 @{ identity = $administrator.SID.AccountDomainSid.Value; output = [Convert]::ToBase64String($utf8.GetBytes($output)) }
}

function Invoke-Leave {
    $account = Get-LocalUser | Where-Object { $_.Name -eq $Argument } | Select-Object -First 1
    if ($account -and $account.SID.Value -match '-500$') { Send-Answer 64 @{ error = 'the installer logs in as the built-in administrator, who is the customer' } }
    Get-ScheduledTask -TaskPath '\' | Where-Object { $_.TaskName -like 'slipway-*' } | Unregister-ScheduledTask -Confirm:$false
    Set-Location -LiteralPath $env:SystemRoot
    if ([IO.Directory]::Exists($root)) { [IO.Directory]::Delete($root, $true) }
    # Last: after it nobody of ours can come back. This session keeps its token until it ends.
    if ($account) { Remove-LocalUser -SID $account.SID }
    Send-Answer 0 @{}
}

if ($Verb -eq 'job') { Invoke-Job; exit 0 }
if ($Verb -eq 'step') { Invoke-Step }
try {
    if ($Verb -in 'upload', 'start', 'observe' -and $Id -cnotmatch '^[a-z0-9][a-z0-9-]{0,99}$') {
        Send-Answer 64 @{ error = 'job id is not made of lower-case letters, digits and dashes' }
    }
    switch ($Verb) {
        'probe' { Invoke-Probe }
        'upload' { Invoke-Upload }
        'start' { Invoke-Start }
        'observe' { Invoke-Observe }
        'inspect' { Invoke-Inspect }
        'leave' { Invoke-Leave }
        default { Send-Answer 64 @{ error = 'unknown verb' } }
    }
} catch {
    Send-Answer 1 @{ error = "$_" }
}
