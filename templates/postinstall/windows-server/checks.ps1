#requires -Version 5.1
# Says of each thing that makes the machine its customer's own whether it is so.
$ErrorActionPreference = 'Stop'
$params = Get-Content -Raw -LiteralPath "$env:SLIPWAY_JOB\params.json" | ConvertFrom-Json
$script:failed = 0

# Check NAME WHY TEST: WHY is printed when TEST is not true, or throws.
function Check([string]$Name, [string]$Why, [scriptblock]$Test) {
    $ok = $false
    try { $ok = [bool](& $Test) } catch { $Why = "${Why}: $($_.Exception.Message.Trim())" }
    if ($ok) {
        Write-Output "$Name=ok"
    } else {
        Write-Output "$Name=failed: $Why"
        $script:failed = 1
    }
}

Check hostname "the computer is not called $($params.computer)" { $env:COMPUTERNAME -eq $params.computer }
Check certificate 'the HTTPS listener of WinRM does not show the machine''s own certificate' {
    $listener = Get-WSManInstance -ResourceURI winrm/config/Listener -Enumerate | Where-Object { $_.Transport -eq 'HTTPS' } | Select-Object -First 1
    $certificate = Get-Item -LiteralPath "Cert:\LocalMachine\My\$($listener.CertificateThumbprint.Replace(' ', ''))"
    [BitConverter]::ToString([Security.Cryptography.SHA256]::Create().ComputeHash($certificate.RawData)).Replace('-', '') -eq $params.certificate
}
Check administrator 'the built-in administrator is disabled or has no password' {
    $administrator = Get-LocalUser | Where-Object { $_.SID.Value -match '-500$' }
    $administrator.Enabled -and $administrator.PasswordLastSet
}
Check disk "$env:SystemDrive does not fill its disk" {
    $letter = $env:SystemDrive.Substring(0, 1)
    (Get-PartitionSupportedSize -DriveLetter $letter).SizeMax - (Get-Partition -DriveLetter $letter).Size -le 64mb
}
Check rdp 'remote desktop is off, or without network level authentication' {
    $server = 'HKLM:\SYSTEM\CurrentControlSet\Control\Terminal Server'
    (Get-ItemProperty -LiteralPath $server).fDenyTSConnections -eq 0 -and
    (Get-ItemProperty -LiteralPath "$server\WinStations\RDP-Tcp").UserAuthentication -eq 1 -and
    (Get-Service -Name TermService).Status -eq 'Running'
}
Check firewall 'a profile of the firewall is off or lets everything in' {
    -not (Get-NetFirewallProfile -PolicyStore ActiveStore | Where-Object { $_.Enabled -ne 'True' -or $_.DefaultInboundAction -eq 'Allow' })
}
Check license 'Windows is not licensed' {
    [bool](Get-CimInstance -ClassName SoftwareLicensingProduct -Filter "ApplicationID='55c92734-d682-4d71-983e-d6ec3f16059f' AND PartialProductKey IS NOT NULL AND LicenseStatus=1")
}
exit $script:failed
