/**
 * All checks, in the order in which one would mend what they find. Pure.
 */
import type { Check } from './check.js';
import { diskChecks, spaceCheck } from './checks/disks.js';
import { bpffsCheck, btfCheck, kernelCheck, privilegeCheck, trackingCheck } from './checks/kernel.js';
import { clockCheck, enrolmentCheck, ownCertificateCheck, receiverChecks } from './checks/receiver.js';
import { rebootCheck, runningCheck, serviceCheck } from './checks/service.js';
import { isProblem, type Facts } from './facts.js';

export function judge(facts: Facts): Check[] {
  const { kernel, privileges, enrolment, receivers, nowMs } = facts;
  const isEnrolled = enrolment !== null && !isProblem(enrolment);
  const ofSystemd = [serviceCheck(facts.service), rebootCheck(facts.reboot)];
  return [
    privilegeCheck(privileges),
    kernelCheck(kernel),
    btfCheck(kernel),
    bpffsCheck(kernel),
    trackingCheck(kernel),
    enrolmentCheck(enrolment),
    // Without an enrolment there is nobody to ask.
    ...(isEnrolled
      ? [ownCertificateCheck(enrolment, nowMs), ...receiverChecks(receivers, nowMs), clockCheck(receivers)]
      : []),
    ...diskChecks(facts.disks, kernel.prefer),
    spaceCheck(facts.space),
    ...ofSystemd.filter((check) => check !== null),
    runningCheck(facts.service),
  ];
}
